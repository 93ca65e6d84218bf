// Changes a token for a cookie that scripts cannot read.

import { post } from "./api.js";
import { byId, tell } from "./dom.js";

/** Where to go on: a path of this server and of no other. */
function next() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/";
  const target = new URL(wanted, location.origin);
  return wanted.startsWith("/") && target.origin === location.origin ? target.pathname : "/";
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("token");
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    await post("/v1/session", { token: field.value.trim() });
    location.assign(next());
  } catch (problem) {
    tell(byId("login-problem"), problem.message);
    field.setAttribute("aria-invalid", "true");
    field.focus();
    field.select();
  } finally {
    button.disabled = false;
  }
});
byId("token").focus();
