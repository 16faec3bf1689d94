"""The rank and size that each launcher tells, and where its processes meet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rdmatensor as rt
from rdmatensor.settings.launchers import launched, local_rank
from rdmatensor.team.store import FolderStore, private_folder


def test_nothing_in_the_environment_is_no_launcher() -> None:
    assert launched({}) is None


def test_rdmatensor_run_tells_a_folder() -> None:
    found = launched({"RANK": "1", "WORLD_SIZE": "3", "RDMATENSOR_TEAM_FOLDER": "/somewhere"})
    assert found is not None
    assert (found.rank, found.size, found.folder) == (1, 3, Path("/somewhere"))


def test_torchrun_tells_its_store() -> None:
    found = launched({"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "h", "MASTER_PORT": "1"})
    assert found is not None
    assert found.torch and found.folder is None


@pytest.mark.parametrize(
    "environment",
    [
        {
            "OMPI_COMM_WORLD_RANK": "2",
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
            "PMIX_NAMESPACE": "prterun-1",
        },
        {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "4"},
        {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"},
    ],
    ids=["Open MPI", "MPICH", "Slurm"],
)
def test_launchers_of_one_host_meet_in_a_folder_of_the_user(environment: dict[str, str]) -> None:
    found, again = launched(environment), launched(environment)
    assert found is not None and again is not None
    assert (found.rank, found.size) == (2, 4)
    assert found.folder is not None and found.folder == again.folder
    elsewhere = launched({**environment, "RDMATENSOR_TEAM_FOLDER": "/shared"})
    assert elsewhere is not None and elsewhere.folder == Path("/shared")


@pytest.mark.parametrize(
    "environment",
    [
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
        {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "1"},
        {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"},
    ],
    ids=["Open MPI", "MPICH", "Slurm"],
)
def test_on_several_hosts_a_shared_folder_must_be_named(environment: dict[str, str]) -> None:
    found = launched(environment)
    assert found is not None
    assert found.folder is None and not found.torch
    assert "RDMATENSOR_TEAM_FOLDER" in found.apart


def test_a_rank_that_is_no_number_is_refused() -> None:
    with pytest.raises(rt.InvalidArgument, match="RANK is 'one'"):
        launched({"RANK": "one", "WORLD_SIZE": "2"})


def test_a_process_alone_is_told_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(rt.InvalidArgument, match="rdmatensor run -n 4"):
        rt.Team.join()
    with pytest.raises(rt.InvalidArgument, match="given together"):
        rt.Team.join(rank=0)


def test_ranks_that_are_given_make_a_team(tmp_path: Path) -> None:
    with rt.Team.join(rank=0, size=1, folder=tmp_path / "team") as team:
        assert (team.rank, team.size) == (0, 1)
    with pytest.raises(rt.InvalidArgument, match="rank 2 of 2"):
        rt.Team.join(rank=2, size=2, folder=tmp_path)


def test_a_folder_that_others_can_use_is_refused(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "new" / "folder")
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(rt.AccessDenied, match="RDMATENSOR_TEAM_FOLDER"):
        private_folder(tmp_path / "open")
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(rt.AccessDenied):
        private_folder(tmp_path / "link")
    if os.geteuid() == 0:
        os.chown(made, 12345, 12345)
        with pytest.raises(rt.AccessDenied, match="another user"):
            private_folder(made)


def test_a_store_keeps_values_apart_by_prefix(tmp_path: Path) -> None:
    one, other = FolderStore(tmp_path, "one/"), FolderStore(tmp_path, "other/")
    one.multi_set(["a", "b/c"], ["1", "2"])
    assert one.check(["a", "b/c"]) and not one.check(["a", "d"]) and not other.check(["a"])
    assert one.multi_get(["a", "b/c"]) == [b"1", b"2"]
    one.set("a", "3")
    assert one.get("a") == b"3"
    assert [one.add("n", 2), one.add("n", 0), other.add("n", 1)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"LOCAL_RANK": "3"}, 3),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        ({"MPI_LOCALRANKID": "1"}, 1),
        ({"SLURM_LOCALID": "5"}, 5),
        ({"LOCAL_RANK": "0", "SLURM_LOCALID": "5"}, 0),
        ({"LOCAL_RANK": "-1"}, None),
        ({"LOCAL_RANK": "70000"}, None),
    ],
)
def test_the_local_rank_is_the_launchers(environment: dict[str, str], expected: int | None) -> None:
    assert local_rank(environment) == expected
