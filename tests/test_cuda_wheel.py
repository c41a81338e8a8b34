# SPDX-License-Identifier: Apache-2.0
"""The package of the CUDA library: what is in its wheel, how it is found, and which version belongs here."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from cuda_library import build_stub

import pyrnn
from pyrnn.backends import cuda

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "cuda" / "wheel"


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def install(folder, version):
    """What pip would install there of the package, with an empty library."""
    settings = project(SOURCES)
    shutil.copytree(SOURCES / "pyrnn_kernels_cuda13", folder / "pyrnn_kernels_cuda13")
    (folder / "pyrnn_kernels_cuda13" / cuda.LIBRARY).touch()
    info = folder / f"pyrnn_kernels_cuda13-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {settings['name']}\nVersion: {version}\n")
    ((group, entries),) = settings["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of installed packages; nothing else brings a library."""
    monkeypatch.delenv("PYRNN_CUDA_LIBRARY", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    if cuda.library_path() is not None:
        pytest.skip("a CUDA library is installed")
    yield tmp_path
    sys.modules.pop("pyrnn_kernels_cuda13", None)


def test_the_installed_package_is_found(elsewhere):
    install(elsewhere, pyrnn.__version__)
    assert cuda.library_path() == str(elsewhere / "pyrnn_kernels_cuda13" / cuda.LIBRARY)


def test_another_version_is_refused(elsewhere):
    install(elsewhere, "0.0.9")
    message = f"expected version {pyrnn.__version__}, as of pyrnn-kernels, got 0.0.9"
    with pytest.raises(RuntimeError, match="^device: pyrnn-kernels-cuda13: " + message):
        pyrnn.LSTM(3, 4, device="cuda")
    assert message in cuda.status()


def test_both_packages_have_one_version():
    main, library = project(ROOT), project(SOURCES)
    assert main["version"] == library["version"] == pyrnn.__version__
    assert main["optional-dependencies"]["cuda13"] == [f"{library['name']}=={library['version']}"]


def test_wheel(tmp_path):
    """It fits every Python 3, holds the library, and says where that is and whose licence it has."""
    pytest.importorskip("scikit_build_core", reason="scikit-build-core is not installed")
    shutil.copytree(SOURCES, tmp_path / "source", ignore=shutil.ignore_patterns("build"))
    define = f"cmake.define.PYRNN_CUDA_LIBRARY={build_stub(tmp_path)}"
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-C", define, "-w", tmp_path, tmp_path / "source"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"pyrnn_kernels_cuda13-{pyrnn.__version__}-py3-none-linux_")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"pyrnn_kernels_cuda13/{name}" for name in ("__init__.py", cuda.LIBRARY)} <= set(names)
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if name.endswith((".h", ".cu", ".txt.in"))]
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pyrnn.backends import cuda; print(cuda.status())"
    )
    command = [sys.executable, "-P", "-c", program, site]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told == "a stub; devices: none\n"
