"""Turn the API server's OpenAPI document into the schemas that kubeconform reads: kube_schemas.py SWAGGER OUTDIR.

The schemas are strict: an unknown field is an error, unlike in the schemas of Kubernetes itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Manifests write these as numbers or as text; the document allows text only.
_EITHER = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
}


def strict(definitions: dict[str, Any]) -> dict[str, Any]:
    """Forbid unknown fields in all definitions; changes them in place and returns them."""
    for name, definition in definitions.items():
        if name in _EITHER:
            definition["type"] = _EITHER[name]
        elif "properties" in definition and not definition.get("x-kubernetes-preserve-unknown-fields"):
            definition.setdefault("additionalProperties", False)
    return definitions


def main(swagger: Path, out: Path) -> None:
    """Write one file per kind and version into the new directory ``out``, and a file with the definitions that they refer to."""
    definitions = strict(json.loads(swagger.read_text())["definitions"])
    out.mkdir(parents=True)
    (out / "definitions.json").write_text(json.dumps({"definitions": definitions}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].split(".")[0]
            file = "-".join(part for part in (kind["kind"].lower(), group, kind["version"]) if part)
            (out / f"{file}.json").write_text(json.dumps({"$ref": f"definitions.json#/definitions/{name}"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
