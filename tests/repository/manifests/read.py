"""Reads YAML documents from standard input, checks them against the schemas of Kubernetes, and prints them as JSON.

Kubernetes' own kinds are checked by kubernetes-validate, strictly: an unknown field is a mistake. Kinds of operators
are checked against custom_resources.json beside this file, which is as strict. With --cloudformation the input is a
CloudFormation template, whose short tags become long ones, and nothing is checked.
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.32"


def check(document, custom):
    kind = f"{document.get('apiVersion')}/{document.get('kind')}"
    if kind in custom["kinds"]:
        schema = {"$ref": f"#/kinds/{kind.replace('/', '~1')}", **custom}
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
            yield f"{kind}: {error.json_path}: {error.message}"
        return
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{kind}: {'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{kind}: no schema is known: {error}"


class Template(yaml.SafeLoader):
    """Understands CloudFormation's tags."""


def long_form(loader, suffix, node):
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


Template.add_multi_constructor("!", long_form)


def main():
    if "--cloudformation" in sys.argv[1:]:
        print(json.dumps(yaml.load(sys.stdin, Template), default=str))
        return 0
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    custom = json.loads(pathlib.Path(__file__).with_name("custom_resources.json").read_text())
    mistakes = [mistake for document in documents for mistake in check(document, custom)]
    print(json.dumps(documents))
    print("\n".join(mistakes), file=sys.stderr)
    return 1 if mistakes else 0


sys.exit(main())
