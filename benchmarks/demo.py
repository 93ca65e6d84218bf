"""`bitplan demo` from an empty cache: seconds to the final table, and peak resident memory.

python benchmarks/demo.py
"""

import os
import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bitplan-") as folder:
        environment = os.environ | {"BITPLAN_CACHE": f"{folder}/cache", "PYTHONSAFEPATH": "1"}
        start = time.perf_counter()
        command = [sys.executable, "-m", "bitplan.cli", "demo", "--out", f"{folder}/demo"]
        subprocess.run(command, env=environment, check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{seconds:.0f} s, peak resident memory {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
