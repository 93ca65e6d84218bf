// Who is signed in, and the way out.

import { call } from "./api.js";
import { byId, fill, h } from "./dom.js";

/** Show the token's name in the bar; gives back what /v1/me says. */
export async function account() {
  const me = await call("/v1/me");
  const leave = async () => {
    await call("/v1/session", { method: "DELETE" });
    location.assign("/login");
  };
  fill(
    byId("account"),
    h("span", {}, me.token_required ? `${me.name} · ${me.scope}` : "no token needed here"),
    me.token_required ? h("button", { type: "button", class: "quiet", onclick: leave }, "Sign out") : null,
  );
  return me;
}
