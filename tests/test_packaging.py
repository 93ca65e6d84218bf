"""What a user installs: one import name, all three rooms in it, nothing heavy until needed."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("allocator", "sensitivity", "kernels")
PUBLIC = [
    "AsyncClient",
    "BitplanError",
    "Budget",
    "Client",
    "CostTable",
    "Plan",
    "Scheme",
    "allocate",
    "apply_plan",
    "describe",
    "evaluate",
    "frontier",
    "load",
    "measure",
    "save",
    "solve",
    "which_estimator",
]
UNTRACKED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "venv", "env", "node_modules"
)


def package_files(tree):
    """Path in the archives and content of every file that the package has, through its links."""
    files = {}
    for folder, names, members in os.walk(tree / "bitplan", followlinks=True):
        names[:] = [name for name in names if name != "__pycache__"]
        for member in members:
            path = Path(folder, member)
            files[path.relative_to(tree).as_posix()] = path.read_bytes()
    return files


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with a clean copy of the tree, in dist/ its sdist and the wheel made of that, and in
    direct/ the wheel made of the tree."""
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=UNTRACKED)
    for arguments, out in (((), "dist"), (("--wheel",), "direct")):
        command = ["-m", "build", "--no-isolation", *arguments, "--outdir", folder / out, tree]
        run(command)
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = (dist / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(dist, wheel):
    """A folder with the wheel installed, and nothing else."""
    target = dist / "site"
    run(["-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", target, wheel])
    return target


def run(arguments, **environment):
    """Run Python, apart from this checkout; returns what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(site, code):
    return run(["-W", "error", "-c", code], PYTHONPATH=str(site)).strip()


def read_wheel(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_the_whole_package_and_one_top_level_name(dist, wheel):
    content = read_wheel(wheel)
    tops = {name.split("/")[0] for name in content}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bitplan"}
    held = {name: data for name, data in content.items() if name.startswith("bitplan/")}
    expected = package_files(dist / "tree")
    assert sorted(held) == sorted(expected)
    assert held == expected
    for room in ROOMS:
        assert f"bitplan/{room}/__init__.py" in held


def test_sdist_holds_real_files(dist):
    (path,) = (dist / "dist").glob("*.tar.gz")
    expected = package_files(dist / "tree")
    with tarfile.open(path) as archive:
        top = path.name.removesuffix(".tar.gz")
        members = {member.name.removeprefix(f"{top}/"): member for member in archive}
        for name, data in expected.items():
            assert members[name].isfile(), name
            file = archive.extractfile(members[name])
            assert file is not None
            assert file.read() == data, name
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        assert name in members


def test_sdist_and_tree_build_the_same_wheel(dist, wheel):
    (direct,) = (dist / "direct").glob("*.whl")
    assert direct.name == wheel.name
    assert read_wheel(direct) == read_wheel(wheel)


def test_the_installed_package_is_the_one_that_is_tested(site):
    where = installed(site, "import bitplan.kernels; print(bitplan.kernels.__file__)")
    assert Path(where) == site / "bitplan" / "kernels" / "__init__.py"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("bitplan", ("torch", "transformers", "triton", "numpy", "pydantic", "matplotlib")),
        ("bitplan.schema", ("torch", "transformers", "triton", "numpy", "matplotlib")),
        ("bitplan.allocator", ("torch", "transformers", "triton", "matplotlib")),
        ("bitplan.service.client", ("torch", "transformers", "triton", "matplotlib", "httpx")),
    ],
)
def test_import_loads_nothing_heavy(site, module, absent):
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({absent!r})))"
    assert installed(site, code) == ""


def test_public_names(site):
    code = "import bitplan; print(*sorted(bitplan.__all__)); print(*dir(bitplan))"
    names, everything = installed(site, code).splitlines()
    assert names.split() == PUBLIC
    assert {*PUBLIC, "__version__"} <= set(everything.split())


def test_the_version_is_that_of_the_package_and_costs_no_import(site):
    code = """
import sys, bitplan
print("importlib.metadata" in sys.modules, bitplan.__version__)
"""
    assert installed(site, code) == f"False {importlib.metadata.version('bitplan')}"


def test_every_public_name_is_there_without_starting_cuda(site):
    code = """
import bitplan, torch
for name in bitplan.__all__:
    value = getattr(bitplan, name)
    assert callable(value), (name, value)
    assert value.__module__.startswith("bitplan."), value.__module__
print(torch.cuda.is_initialized())
"""
    assert installed(site, code) == "False"


def test_evaluate_is_the_function_though_a_subpackage_has_its_name(site):
    code = """
import bitplan.evaluate
from bitplan import evaluate
print(evaluate is bitplan.evaluate, callable(evaluate))
"""
    assert installed(site, code) == "True True"


def test_an_unknown_name_is_an_attribute_error(site):
    code = """
import bitplan
try:
    bitplan.alocate
except AttributeError as error:
    print(error)
"""
    assert installed(site, code) == "module 'bitplan' has no attribute 'alocate'"
