"""llama.cpp by xllamacpp's wheel: milliseconds a token, as often as a line asks for so many.

Runs in an environment of its own, see `llama_cpp.py`; nothing of bitplan is there. First it says,
in a line, what it was built for.

    python peer_llamacpp.py MODEL.gguf --threads N
"""

# The package is not there where this is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import argparse
import json
import sys
import time

import xllamacpp

PROMPT = "Once upon a time there was a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    asked = xllamacpp.CommonParams()
    asked.model.path = args.model
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = args.threads
    asked.n_ctx, asked.n_parallel = 512, 1
    server = xllamacpp.Server(asked)
    say({"system": xllamacpp.get_system_info()})
    for line in sys.stdin:
        start = time.process_time()
        found = server.handle_completions(
            {
                "prompt": PROMPT,
                "n_predict": int(line),
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        times = found["timings"]
        say({"wall_ms": times["predicted_per_token_ms"], "cpu_s": time.process_time() - start})


def say(what: dict[str, object]) -> None:
    print("> " + json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
