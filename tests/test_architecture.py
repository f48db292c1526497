"""Dependencies point one way, and the caller's process stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import architecture
from tests.support.far_end import FarEnd
from tests.support.processes import ROOT, Home, clean_environment, run_script, wait_gone

# Which files may import what: a path, or a folder with everything below it.
DOORS = {
    "boto3": ("streaming/clients/boto.py",),
    "botocore": ("streaming/clients/boto.py", "streaming/clients/s3.py", "streaming/server/storage/objects.py"),
    "requests": ("streaming/clients/sentinel.py",),
    "tenacity": ("streaming/upload/retry.py",),
    "sqlite3": ("spool/", "streaming/server/"),
    "sqlite_utils": ("streaming/cli/", "streaming/read/export/", "streaming/server/"),
    "resource_tracker": ("streaming/collect/sampler.py", "streaming/collect/procfs.py", "streaming/collect/host.py"),
    "click": ("streaming/cli/",),
    "fastapi": ("streaming/server/",),
    "pyarrow": ("streaming/tables/", "streaming/read/", "streaming/server/metrics/"),
    "distributed": ("streaming/integrations/dask.py", "streaming/read/"),
    "fcntl": ("spool/system.py", "streaming/server/process/directory.py"),
}
HEAVY = (
    "boto3",
    "botocore",
    "requests",
    "tenacity",
    "sqlite_utils",
    "click",
    "rich",
    "resource_tracker",
    "pyarrow",
    "duckdb",
)
NETWORK = {"socket", "ssl", "http", "urllib3", "requests", "boto3", "botocore", "httpx", "aiohttp", "asyncio"}


def product_files() -> list[Path]:
    return sorted(path for package in ("spool", "streaming") for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_packages_import_one_way_as_the_table_says() -> None:
    assert architecture.forbidden(architecture.graph()) == []
    assert architecture.cycles(architecture.graph()) == []
    names = list(architecture.PACKAGES)
    for name, package in architecture.PACKAGES.items():
        assert all(names.index(other) < names.index(name) for other in package.imports), name


def test_an_arrow_against_the_table_is_found() -> None:
    upwards = {"spool.model": {"streaming.config"}, "streaming.cli.a": {"streaming.cli.b"}}
    assert architecture.forbidden(upwards) == ["spool -> config: spool.model"]
    assert architecture.cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_folder_and_no_module_is_too_full() -> None:
    assert architecture.too_full() == []


@pytest.mark.parametrize("package", DOORS)
def test_only_its_door_imports_an_outside_system(package: str) -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in product_files()
        if any(name.split(".")[0] == package for name in imports(path))
    }
    outside = sorted(name for name in importers if not name.startswith(DOORS[package]))
    assert outside == []
    assert importers, f"nobody imports {package}: this check has lost its object"


def test_spool_knows_no_network_and_nothing_of_streaming() -> None:
    for path in (ROOT / "spool").rglob("*.py"):
        names = set(imports(path))
        assert not {name.split(".")[0] for name in names} & (NETWORK | {"streaming"}), path
        assert "urllib.request" not in names, path


def test_delivery_knows_no_http_no_sleep_no_thread_and_no_clock() -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "streaming" / "upload" / "delivery.py")}
    assert not names & (NETWORK | {"time", "threading", "subprocess", "os", "random", "tenacity"})


def test_product_imports_no_test() -> None:
    for path in product_files():
        assert not any(name.split(".")[0] in ("tests", "pytest", "hypothesis") for name in imports(path)), path


def test_importing_is_light_and_needs_no_network() -> None:
    code = f"import sys, streaming, spool; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, text=True, check=True)
    assert done.stdout.strip() == "[]"


RECORDING = f"""
import sys, streaming
manager = streaming.StreamingManager(sys.argv[1], host_info={{}}, cloud_info={{}})
manager.start()
manager.append(b"timestamp,x\\n1,2\\n")
manager.wait_until_registered(20)
print(manager.stop()["run_id"] is not None)
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_caller_of_a_whole_run_imports_nothing_heavy(far_end: FarEnd, home: Home, marker: str) -> None:
    environment = clean_environment(home, marker, **far_end.environment())
    result = run_script(RECORDING, environment, far_end.token).check_unfelt()
    assert result.stdout.split() == [b"True", b"[]"]
    wait_gone(marker)
