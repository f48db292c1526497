"""HTML: one self-contained page with the charts of the server's run page, to look at or to send around.

The static files are those that the server serves; this needs none of the server's code.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any, BinaryIO

from spool.model import iso_utc
from streaming.collect.need import SAMPLED, Need, Used, told
from streaming.errors import BadArgument
from streaming.read.export.rows import RunRows

try:
    import pyarrow as pa

    from streaming.read import typed_rows
    from streaming.read.sources import RunFacts, facts_of
    from streaming.tables.figures import MEASURES, TOTALS, figures_of, need_figures, numbers
    from streaming.tables.series import bucket_starts, bucket_times, reduced, time_order, usual_interval_s
except ImportError as missing:
    raise BadArgument("HTML needs pyarrow and numpy", hint="pip install 'tracker-stream[read]'") from missing

MOST_POINTS = 60_000  # rows that a page carries as they are: 17 hours at a second, some 2 MB
STRETCHES = 30_000  # of longer runs: a week at a second in stretches of 20 s
COLUMNS = (*MEASURES, *TOTALS)

_PAGES = Path(__file__).parents[2] / "server" / "web"
_ENTRY = "run_file"
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_SERVER_ONLY = re.compile(r"<!-- (server|account) -->.*?<!-- /\1 -->\n?", re.DOTALL)
_LOADED = re.compile(r"^<(?:link rel|script)[^\n]*\n", re.MULTILINE)


def write(rows: RunRows, out: BinaryIO) -> None:
    """The page. Every row up to `MOST_POINTS`; of more, average, minimum and maximum of short stretches."""
    schema = typed_rows.schema_of(rows)
    chosen = pa.schema([field for field in schema if field.name in (*COLUMNS, "timestamp")])
    table = pa.concat_tables([chosen.empty_table(), *typed_rows.tables_of(rows, chosen)])
    out.write(page(facts_of(rows.path), table).encode())


def page(facts: RunFacts, table: pa.Table) -> str:
    """The document."""
    figures = figures_of(table.num_rows, lambda name: numbers(table, name))
    times = numbers(table, "timestamp")
    order = time_order(times)
    table, times = (table, times) if order is None else (table.take(order), times[order])
    is_reduced = len(times) > MOST_POINTS
    starts = bucket_starts(times, STRETCHES if is_reduced else MOST_POINTS)
    kinds = ["mean", "max", "min"] if is_reduced else ["mean"]
    present = [name for name in COLUMNS if name in figures]
    parts = [bucket_times(times, starts).astype("<f8")]
    for name in present:
        values = reduced(numbers(table, name), starts)
        parts += [values[kind].astype("<f4") for kind in kinds]
    packed = base64.b64encode(gzip.compress(b"".join(part.tobytes() for part in parts), 6, mtime=0)).decode()
    need = need_figures(times, *(numbers(table, name) for name in SAMPLED[1:]))
    used = Used(facts.run, facts.metadata, Need.of(**need) if need else Need())
    payload = {
        "run": {**_run_json(facts, figures), "need": told([used])},
        "objects": facts.objects,
        "now": time.time(),
        "interval_s": usual_interval_s(times),
        "columns": present,
        "kinds": kinds,
        "count": len(starts),
        "numbers": packed,
    }
    return _document(json.dumps(payload))


def _run_json(facts: RunFacts, figures: dict[str, Any]) -> dict[str, Any]:
    """As the server answers `GET /runs/{id}`."""
    row = facts.as_row()
    metadata = {name: value for name, value in facts.metadata.items() if value is not None}
    if isinstance(metadata.get("command"), list):
        metadata["command"] = json.dumps(metadata["command"])
    return {
        "run_id": facts.run,
        "state": facts.outcome or facts.state,
        **{name: metadata.get(name) for name in ("project_name", "job_name", "tags")},
        "host": row["host"],
        "started_at": None if facts.started_at is None else iso_utc(facts.started_at),
        "ended_at": None if facts.ended_at is None else iso_utc(facts.ended_at),
        "duration_s": facts.duration_s,
        "exit_code": facts.exit_code,
        "row_count": figures["row_count"],
        "last_row_at": figures["last_timestamp"],
        "metadata": metadata,
        "data_source": "s3" if facts.objects else "inline" if facts.is_finished else None,
        "statistics": figures,
        "gaps": [],
        "object_count": len(facts.objects),
        "size_bytes": None,
        "missing_count": 0,
        "unreadable_count": 0,
    }


def _document(payload_json: str) -> str:
    """The server's run page: its styles and scripts put into it, with a policy that allows nothing else."""
    style = _read("vendor/uPlot.min.css") + _read("base.css")
    scripts = [_read("vendor/uPlot.min.js"), f'"use strict";\n{_bundle(_ENTRY)}']
    frame = _LOADED.sub("", _read("frame.html")).replace("$title", "Run").replace("$page", _read("run.html"))
    html = _SERVER_ONLY.sub("", frame)
    head = f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, scripts)}">\n<style>{style}</style>\n'
    data = payload_json.replace("<", "\\u003c")
    body = f'<script type="application/json" id="run-data">{data}</script>\n'
    body += "".join(f"<script>{_no_end(script)}</script>\n" for script in scripts)
    return html.replace("</head>", f"{head}</head>", 1).replace("</body>", f"{body}</body>", 1)


def _bundle(entry: str) -> str:
    """The module and all that it imports, each after what it needs.

    Each becomes a function whose result are its exports, so that names of one never meet those of another.
    """
    done: dict[str, str] = {}
    _add(entry, done)
    return "const modules = {};\n" + "\n".join(done.values())


def _add(name: str, done: dict[str, str]) -> None:
    text = _read(f"{name}.js")
    for _, needed in _IMPORT.findall(text):
        if needed not in done:
            _add(needed, done)
    names = ", ".join(found for _, found in _EXPORT.findall(text))
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const {\1} = modules.\2;", text))
    done[name] = f"modules.{name} = (() => {{\n{body}return {{ {names} }};\n}})();"


def _policy(style: str, scripts: list[str]) -> str:
    allowed = " ".join(_hash(script) for script in scripts)
    return f"default-src 'none'; style-src {_hash(style)}; script-src {allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _no_end(script: str) -> str:
    assert "</script" not in script, "a script would end the element that it is in"
    return script


def _read(name: str) -> str:
    return (_PAGES / name).read_text(encoding="utf-8")
