"""Reads YAML files and prints {path: [document]} as JSON.

With --kubernetes, every document is an object that must satisfy, strictly, the OpenAPI schemas of the oldest and of the newest
Kubernetes that the deployment is for; only custom resources of the kinds below have no schema here.
"""

import json
import sys

import kubernetes_validate
import yaml

VERSIONS = ["1.31", "1.37"]
CUSTOM = {("keda.sh/v1alpha1", "ScaledObject")}


class Loader(yaml.SafeLoader):
    """Takes a key that stands twice for a mistake, which it is."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.composer.ComposerError(None, None, f"{key!r} stands twice", node.start_mark)
        return node


def problems(document):
    """What is wrong with an object, by the schemas."""
    if (document.get("apiVersion"), document.get("kind")) in CUSTOM:
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except Exception as error:
            path = ".".join(str(part) for part in getattr(error, "path", []))
            yield f"{version}: {path}: {getattr(error, 'message', error)}"


def main(arguments):
    kubernetes = "--kubernetes" in arguments
    documents, wrong = {}, []
    for path in arguments:
        if path.startswith("--"):
            continue
        with open(path, encoding="utf-8") as file:
            documents[path] = [document for document in yaml.load_all(file, Loader) if document is not None]
        for document in documents[path] if kubernetes else []:
            name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
            wrong += [f"{path}: {name}: {problem}" for problem in problems(document)]
    if wrong:
        sys.exit("\n".join(wrong))
    json.dump(documents, sys.stdout)


main(sys.argv[1:])
