"""What pages and scripts read."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import streaming
from streaming.errors import Unauthorized
from streaming.server.errors import StoreUnavailable
from streaming.server.storage.runs import Finish
from streaming.server.storage.seen import SILENT_AFTER_S
from tests.streaming.server.conftest import Service
from tests.support.processes import eventually

HEADER = "timestamp,system_cpu_usage\n"


def put_rows(service: Service, run: dict[str, Any], number: int, *times: float) -> str:
    rows = "".join(f"{time},{time / 10}\n" for time in times)
    return service.put(run, f"{number:08d}-0123456789ab.csv.gz", gzip.compress((HEADER + rows).encode()))


def finish(service: Service, run: dict[str, Any], *uris: str, status: str = "finished", code: int = 0) -> None:
    body = {"data_source": "s3", "data_uris": list(uris), "run_status": status, "exit_code": code}
    assert service.post(f"/runs/{run['run_id']}/finish", body).status_code == 200


def listed(service: Service, query: str = "") -> list[str]:
    answer = service.get(f"/runs{query}")
    assert answer.status_code == 200, answer.text
    return [line["job_name"] for line in answer.json()["runs"]]


def line_of(service: Service, run: dict[str, Any]) -> dict[str, Any]:
    lines = service.get("/runs").json()["runs"]
    found: dict[str, Any] = next(line for line in lines if line["run_id"] == run["run_id"])
    return found


def test_a_run_goes_from_registered_to_recording_to_finished(service: Service) -> None:
    run = service.register(job_name="train", project_name="p", tags={"k": "v"}, host_hostname="box")
    line = line_of(service, run)
    assert (line["state"], line["job_name"], line["project_name"], line["tags"], line["host"]) == (
        "registered",
        "train",
        "p",
        {"k": "v"},
        "box",
    )
    uri = put_rows(service, run, 1, 1000.0, 1010.0)
    service.app.state.watcher.look()
    line = line_of(service, run)
    assert (line["state"], line["row_count"], line["object_count"]) == ("recording", 2, 1)
    assert (line["started_at"], line["last_row_at"]) == ("1970-01-01T00:16:40.000Z", "1970-01-01T00:16:50.000Z")
    finish(service, run, uri, status="failed", code=3)
    line = line_of(service, run)
    assert (line["state"], line["exit_code"], line["row_count"]) == ("failed", 3, 2)


def test_a_run_without_a_word_is_silent(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from streaming.server.api import data

    run = service.register()

    class Later(datetime):
        @classmethod
        def now(cls, _: Any = None) -> Any:
            return datetime.now(timezone.utc) + timedelta(seconds=SILENT_AFTER_S + 5)

    monkeypatch.setattr(data, "datetime", Later)
    assert line_of(service, run)["state"] == "silent"


def test_after_a_restart_a_finished_run_has_its_figures(service: Service) -> None:
    run = service.register()
    finish(service, run, put_rows(service, run, 1, 1000.0, 1010.0))
    service.app.state.reader._entries.clear()
    line = line_of(service, run)
    assert (line["row_count"], line["object_count"], line["started_at"]) == (2, 1, "1970-01-01T00:16:40.000Z")


def test_filter_sort_and_page(service: Service) -> None:
    for name, project in (("b", "x"), ("a", "x"), ("c", "y")):
        service.register(job_name=name, project_name=project, tags=[name, {"team": project}])
    done = service.register(job_name="done")
    service.app.state.runs.finish(done["run_id"], Finish("failed", 1, None, data_csv=""))
    assert listed(service) == ["done", "c", "a", "b"]
    assert listed(service, "?sort=job_name") == ["a", "b", "c", "done"]
    assert listed(service, "?sort=-project_name") == ["c", "a", "b", "done"]
    assert listed(service, "?sort=exit_code") == ["done", "c", "a", "b"]
    assert listed(service, "?state=failed&state=finished") == ["done"]
    assert listed(service, "?project=x&sort=job_name") == ["a", "b"]
    assert listed(service, "?q=DON") == ["done"]  # not among the hexadecimal digits of the others' ids
    assert listed(service, "?tag=team=y") == ["c"]
    assert listed(service, "?job=a") == ["a"]
    assert listed(service, "?sort=job_name&offset=1&limit=2") == ["b", "c"]
    answer = service.get("/runs?limit=1&q=").json()
    assert (answer["total"], answer["counts"], answer["projects"]) == (4, {"registered": 3, "failed": 1}, ["x", "y"])


def test_each_token_sees_its_own_runs_only(service: Service) -> None:
    run = service.register(job_name="mine")
    other = service.app.state.tokens.add("other")
    assert service.get("/runs", token=other).json()["runs"] == []
    for path in ("", "/objects", "/csv", "/series?columns=a"):
        assert service.get(f"/runs/{run['run_id']}{path}", token=other).status_code == 404
        assert service.get(f"/runs/{run['run_id']}{path}", token="wrong").status_code == 401


def test_a_run_shows_metadata_figures_and_gaps(service: Service) -> None:
    run = service.register(job_name="a", host_vcpus=8)
    put_rows(service, run, 2, 1000.0)
    put_rows(service, run, 5, 1010.0)
    found = service.get(f"/runs/{run['run_id']}").json()
    assert found["metadata"] == {"job_name": "a", "host_vcpus": 8}
    assert found["gaps"] == [[1, 1], [3, 4]]
    assert found["columns"] == ["system_cpu_usage"]
    assert found["statistics"]["system_cpu_usage"] == {"average": 100.5, "peak": 101.0}
    assert (found["missing_count"], found["unreadable_count"], found["complete"]) == (0, 0, True)


def test_objects_are_listed_with_what_is_wrong_with_them(service: Service) -> None:
    run = service.register()
    good = put_rows(service, run, 1, 1000.0)
    broken = service.put(run, "0002.csv.gz", b"no gzip")
    service.put(run, "000004.csv.gz", gzip.compress(HEADER.encode()))
    missing = f"{run['upload_uri_prefix']}/0003.csv.gz"
    finish(service, run, good, broken, missing)
    answer = service.get(f"/runs/{run['run_id']}/objects").json()
    assert [entry["seq"] for entry in answer["objects"]] == [1, 2, 3, 4]
    first, second, third, fourth = answer["objects"]
    assert (first["row_count"], first["listed"], first["missing"], first["digest_matches"]) == (1, True, False, False)
    assert len(first["sha256"]) == 64
    assert (first["first_timestamp"], first["last_timestamp"]) == (1000.0, 1000.0)
    assert "not gzip" in second["error"]
    assert (third["missing"], third["listed"], third["size_bytes"]) == (True, True, None)
    assert (fourth["listed"], fourth["row_count"], fourth["digest_matches"]) == (False, 0, None)
    assert answer["gaps"] == [[3, 3]]
    page = service.get(f"/runs/{run['run_id']}/objects?offset=1&limit=2").json()
    assert ([entry["seq"] for entry in page["objects"]], page["total"]) == ([2, 3], 4)


def test_series_of_a_live_run_grow(service: Service) -> None:
    run = service.register()
    put_rows(service, run, 1, 1000.0, 1001.0)
    path = f"/runs/{run['run_id']}/series?columns=system_cpu_usage,nope&points=100"
    answer = service.get(path).json()
    assert answer["t"] == [1000.0, 1001.0]
    assert answer["columns"] == {"system_cpu_usage": {name: [100, 100.1] for name in ("min", "max", "mean")}}
    assert (answer["unknown_columns"], answer["total_row_count"], answer["reduced"]) == (["nope"], 2, False)
    zoomed = service.get(path + "&from=1000.5&to=2000").json()
    assert (zoomed["t"], zoomed["from"], zoomed["to"]) == ([1001.0], 1001.0, 1001.0)


def test_series_of_an_inline_run(service: Service) -> None:
    run = service.register()
    body = {"data_source": "inline", "data_csv": HEADER + "5,1\n6,2\n", "run_status": "finished"}
    service.post(f"/runs/{run['run_id']}/finish", body)
    answer = service.get(f"/runs/{run['run_id']}/series?columns=system_cpu_usage").json()
    assert answer["columns"]["system_cpu_usage"]["mean"] == [1, 2]


def test_csv_is_every_row_under_one_header(service: Service) -> None:
    run = service.register()
    texts = ['"timestamp","a"\n1,2\n', '"timestamp","a"\n3,4', 'a,"note"\n6,"x, y"\n']
    for number, text in enumerate(texts, 1):
        service.put(run, f"{number:06d}.csv.gz", gzip.compress(text.encode()))
    answer = service.get(f"/runs/{run['run_id']}/csv")
    assert answer.text == 'timestamp,a,note\n1,2,\n3,4,\n,6,"x, y"\n'
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="run-{run["run_id"]}.csv"'


def test_csv_of_equal_objects_is_byte_for_byte(service: Service) -> None:
    run = service.register()
    for number, text in enumerate(['"timestamp","a"\n1,"2 ""x"""\n', '"timestamp","a"\n3,4.0\n'], 1):
        service.put(run, f"{number:06d}.csv.gz", gzip.compress(text.encode()))
    assert service.get(f"/runs/{run['run_id']}/csv").text == '"timestamp","a"\n1,"2 ""x"""\n3,4.0\n'


def test_s3_that_cannot_be_read_is_an_outage_not_a_gap(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    run = service.register()
    uris = [put_rows(service, run, number, 1000.0 + number) for number in (1, 2)]
    service.app.state.runs.finish(run["run_id"], Finish("finished", 0, None, data_uris=tuple(uris)))
    path = f"/runs/{run['run_id']}"
    objects = service.app.state.objects
    read, first_key = objects.read, uris[0].split("/", 3)[3]

    def cut_off(key: str) -> bytes:
        raise StoreUnavailable("cut off")

    monkeypatch.setattr(objects, "read", cut_off)
    for part in ("", "/objects", "/csv", "/series?columns=system_cpu_usage"):
        assert service.get(path + part).status_code == 503, part
    monkeypatch.setattr(objects, "read", lambda key: read(key) if key == first_key else cut_off(key))
    for _ in range(2):
        assert service.get(path + "/csv").status_code == 503
    monkeypatch.setattr(objects, "read", read)
    eventually(lambda: service.get(path + "/csv").status_code == 200)
    assert service.get(path + "/csv").text.count("\n") == 3
    assert service.get(path).json()["missing_count"] == 0


BAD_QUERIES = [
    ("/runs?sort=secret", 422),
    ("/runs?sort=--job_name", 422),
    ("/runs?state=gone", 422),
    ("/runs?limit=0", 422),
    ("/runs?limit=1001", 422),
    ("/runs?offset=-1", 422),
    ("/runs?q=" + "x" * 201, 422),
    ("/runs/RUN/series", 422),
    ("/runs/RUN/series?columns=a&points=0", 422),
    ("/runs/RUN/series?columns=a&points=10001", 422),
    ("/runs/RUN/series?columns=a&from=nan", 422),
    ("/runs/RUN/series?columns=a&to=inf", 422),
    ("/runs/RUN/series?columns=a&from=yesterday", 422),
    ("/runs/RUN/objects?limit=5000", 422),
    ("/runs/nope", 404),
    ("/runs/nope/series?columns=a", 404),
    ("/runs/nope/csv", 404),
    ("/runs/nope/objects", 404),
    ("/nope", 404),
]


@pytest.mark.parametrize(("path", "status"), BAD_QUERIES)
def test_a_bad_query_is_refused(service: Service, path: str, status: int) -> None:
    run_id = service.register()["run_id"]
    answer = service.get(path.replace("RUN", run_id))
    assert answer.status_code == status
    assert "detail" in answer.json()


def test_figures_that_a_finish_lacked_are_computed_later(service: Service) -> None:
    run = service.register()
    uri = f"{run['upload_uri_prefix']}/00000001-0123456789ab.csv.gz"
    finish(service, run, uri)
    assert service.app.state.runs.get(run["run_id"]).statistics["complete"] is False
    put_rows(service, run, 1, 1000.0)
    service.app.state.watcher.look()
    statistics = service.app.state.runs.get(run["run_id"]).statistics
    assert (statistics["complete"], statistics["row_count"]) == (True, 1)
    assert service.app.state.runs.unsettled(finished_after=datetime.now(timezone.utc) - timedelta(days=1)) == []


def test_answers_are_compressed_and_kept_by_no_one(service: Service) -> None:
    for _ in range(5):
        service.register(job_name="x" * 500)
    answer = service.get("/runs")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(answer.text)["total"] == 5


@pytest.mark.parametrize("was_shown", [True, False], ids=["looked at before", "not looked at"])
@pytest.mark.parametrize("way", ["s3", "inline"])
def test_objects_that_the_finish_does_not_name_count_nowhere(service: Service, way: str, was_shown: bool) -> None:
    """A copy of the run that was drained elsewhere leaves objects behind: the same rows, cut in another way."""
    run = service.register(job_name="train")
    path = f"/runs/{run['run_id']}"
    put_rows(service, run, 2, 1000.0, 1001.0, 1002.0)
    service.put(run, "00000001-ffffffffffff.csv.gz", gzip.compress((HEADER + "1000.0,99\n1001.0,99\n").encode()))
    if was_shown:
        service.app.state.watcher.look()
        assert service.get(path).json()["row_count"] == 5
    own = HEADER + "1000.0,100.0\n1001.0,100.1\n1002.0,100.2\n"
    if way == "s3":
        uris = [service.put(run, "00000001-0123456789ab.csv.gz", gzip.compress(own.encode()))]
        body: dict[str, Any] = {"data_source": "s3", "data_uris": uris}
    else:
        body = {"data_source": "inline", "data_csv": own}
    answer = service.post(f"{path}/finish", {**body, "run_status": "finished", "exit_code": 0})
    assert answer.json()["row_count"] == 3
    assert answer.json()["system_cpu_usage"] == {"average": 100.1, "peak": 100.2}
    assert service.get(f"{path}/csv").text == own
    assert line_of(service, run)["row_count"] == 3
    assert service.get(path).json()["row_count"] == 3
    series = service.get(f"{path}/series?columns=system_cpu_usage&points=10").json()
    assert series["row_count"] == 3
    objects = service.get(f"{path}/objects").json()["objects"]
    if way == "s3":
        strays = {each["key"].rpartition("/")[2] for each in objects if not each["listed"]}
        assert strays == {"00000001-ffffffffffff.csv.gz", "00000002-0123456789ab.csv.gz"}
    service.app.state.reader._entries.clear()  # as after a restart
    assert service.get(f"{path}/csv").text == own


def test_the_runs_of_a_server_are_read_as_tables(service: Service) -> None:
    run = service.register(job_name="train", project_name="p", tags={"k": "v"})
    finish(service, run, put_rows(service, run, 1, 1000.0, 1010.0))
    service.register(job_name="other")
    found = streaming.runs(service.url, token=service.token)
    assert [(one.job_name, one.state) for one in found] == [("train", "finished"), ("other", "registered")]
    assert found["train"].table().to_pydict()["system_cpu_usage"] == [100.0, 101.0]
    assert found["train"].summary()["duration_s"] == 10.0
    assert found["other"].table().num_rows == 0
    sql = "SELECT job_name, max(system_cpu_usage) AS peak FROM rows JOIN runs USING (run) GROUP BY 1"
    assert found.query(sql).to_pylist() == [{"job_name": "train", "peak": 101.0}]
    with pytest.raises(Unauthorized):
        streaming.runs(service.url, token="wrong")


@pytest.mark.parametrize("is_finished", [True, False])
def test_list_shows_average_peak_and_a_small_curve_and_a_run_and_its_job_what_to_ask_for(
    service: Service, is_finished: bool
) -> None:
    tags = {"job": "39", "limit_cpus": "8", "limit_memory_mib": "4096"}
    run = service.register(job_name="train", orchestrator="slurm", tags=tags)
    lines = "".join(f"{1_700_000_000 + n},{n % 4},{n}\n" for n in range(400))
    text = f'"timestamp","process_cpu_usage","process_memory_mib"\n{lines}'
    if is_finished:
        body = {"data_source": "inline", "data_csv": text, "run_status": "finished"}
        assert "sketch" not in service.post(f"/runs/{run['run_id']}/finish", body).json()
    else:
        service.put(run, "00000001-000000000000.csv.gz", gzip.compress(text.encode()))
        service.app.state.watcher.look()
    (line,) = service.get("/runs").json()["runs"]
    assert (line["average_cpu"], line["peak_memory_mib"]) == (1.5, 399.0)
    assert (len(line["curves"]["cpu"]), line["curves"]["memory"][0], line["curves"]["memory"][-1]) == (60, 3.0, 396.0)
    need = {
        "used": "3.0 of 8 CPUs, 399 MiB of 4.0 GiB at its peak",
        "next time": "ask for --cpus-per-task=4 --mem=500M",
    }
    assert service.get("/jobs?id=39").json()["need"] == need
    assert service.get(f"/runs/{run['run_id']}").json()["need"] == need


def test_whatever_is_searched_for_is_searched_for(service: Service) -> None:
    """SQL, the words of the index, characters that end a string, or turn the line around."""
    name = "a\u202eb 100%_'\"(c)"
    service.register(job_name=name)
    for text in (name, "100%_", "'\"(", "\u202eb "):
        assert service.get("/runs", params={"q": text}).json()["total"] == 1, repr(text)
    odd = ['"""', "aa\0bb", "\0", "NEAR(a", "a AND", "job_name:", "{a}:", "^a*", "a*b" * 60, "' OR 1=1 --", "\n\x7f"]
    for text in odd:
        for where in ("q", "project", "job", "tag"):
            answer = service.get("/runs", params={where: text})
            assert (answer.status_code, answer.json().get("total")) == (200, 0), (where, text, answer.text)
