"""`/docs`: the OpenAPI description as one plain page, written here: no script, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")


def docs_page(api: dict[str, Any]) -> str:
    """HTML of every call and every body."""
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="/pages/icon.svg" type="image/svg+xml">',
            '<link rel="stylesheet" href="/pages/base.css">',
            f'<title>{escape(api["info"]["title"])}: the API</title></head><body><main class="docs">',
            f"<h1>{escape(api['info']['title'])}: the API</h1>",
            '<p>For programs: <a href="openapi.json">openapi.json</a>. Calls need <code>Authorization: Bearer ',
            "&lt;token&gt;</code>; those that only read also take a browser's session.</p><h2>Calls</h2>",
            *_calls(api["paths"]),
            "<h2>Bodies</h2>",
            *_schemas(api.get("components", {}).get("schemas", {})),
            "</main></body></html>",
        ]
    )


def _calls(paths: dict[str, Any]) -> Iterator[str]:
    for path, calls in paths.items():
        for method in (name for name in _METHODS if name in calls):
            yield from _call(f"{method.upper()} {path}", calls[method])


def _call(title: str, call: dict[str, Any]) -> Iterator[str]:
    yield f"<section><h3><code>{escape(title)}</code></h3><p>{escape(call.get('description', ''))}</p>"
    parameters = call.get("parameters", [])
    if parameters:
        rows = "".join(_parameter(parameter) for parameter in parameters)
        yield f"<table><thead><tr><th>parameter</th><th>in</th><th>type</th></tr></thead><tbody>{rows}</tbody></table>"
    body = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        yield f"<p>Body: {_types(body)}</p>"
    answers = ", ".join(f"{escape(code)} {escape(answer['description'])}" for code, answer in call["responses"].items())
    yield f"<p>Answers: {answers}</p></section>"


def _parameter(parameter: dict[str, Any]) -> str:
    schema = escape(json.dumps(parameter["schema"]))
    return (
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td><td>{schema}</td></tr>"
    )


def _types(schema: dict[str, Any]) -> str:
    choices = schema.get("oneOf") or schema.get("anyOf") or [schema]
    names = [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]
    return " or ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names) or "JSON"


def _schemas(schemas: dict[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        text = escape(json.dumps(schema, indent=2))
        yield f'<section id="{escape(name)}"><h3>{escape(name)}</h3><pre>{text}</pre></section>'
