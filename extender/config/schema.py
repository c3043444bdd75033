"""JSON Schema of `MigfitConfiguration`, from the same types and patterns that the loader reads by.

What the loader takes, the schema takes. The loader alone knows of names given twice, of one slice
given under two names, of quantities that are text and below 1 MiB or above 1 TiB, of headroom that
is text and above 1000 %, and of what makes a text no YAML.
"""

import ast
import inspect
from typing import Any

import msgspec

from extender.config import types

SCHEMA_ID = "https://migfit.io/schemas/migfitconfiguration-v1alpha1.json"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12), with what each field means as its description."""
    schema: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(msgspec.json.schema(types.MigfitConfiguration))
    )
    for section, fields in field_docs().items():
        for field, text in fields.items():
            schema["$defs"][section]["properties"][field]["description"] = text
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return head | schema


def field_docs() -> dict[str, dict[str, str]]:
    """Section (`Inject`) -> field as in the file (`schedulerName`) -> its docstring on one line.

    Python drops docstrings of fields, so they are read from the source of the types.
    """
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(types)).body:
        section = getattr(types, node.name, None) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or not isinstance(section, type):
            continue
        names = {f.name: f.encode_name for f in msgspec.structs.fields(section)}
        docs[node.name] = {
            names[field.target.id]: " ".join(text.value.value.split())
            for field, text in zip(node.body, node.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        }
    del docs["_Section"]
    return docs
