"""The server's run page as one HTML document: its styles and scripts put into it, with a policy that allows nothing else.

The static files are those that the server serves; this needs none of the server's code. Each module becomes a function
whose result are its exports, so that names of one never meet those of another.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "server" / "web"
_ENTRY = "run_file"
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_SERVER_ONLY = re.compile(r"<!-- server -->.*?<!-- /server -->\n?", re.DOTALL)
_LOADED = re.compile(r"^<(?:link rel|script)[^\n]*\n", re.MULTILINE)


def page(payload_json: str) -> str:
    """The document with these rows in it."""
    style = _read("vendor/uPlot.min.css") + _read("base.css")
    scripts = [_read("vendor/uPlot.min.js"), f'"use strict";\n{bundle(_ENTRY)}']
    html = _LOADED.sub("", _SERVER_ONLY.sub("", _read("run.html")))
    head = f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, scripts)}">\n<style>{style}</style>\n'
    data = payload_json.replace("<", "\\u003c")
    body = f'<script type="application/json" id="run-data">{data}</script>\n'
    body += "".join(f"<script>{_no_end(script)}</script>\n" for script in scripts)
    return html.replace("</head>", f"{head}</head>", 1).replace("</body>", f"{body}</body>", 1)


def bundle(entry: str) -> str:
    """The module and all that it imports, each after what it needs."""
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
    return (PAGES / name).read_text(encoding="utf-8")
