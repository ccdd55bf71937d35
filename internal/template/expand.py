"""Expands a SAM template as CloudFormation would: expand.py TEMPLATE EXPANDED.json.

It is for make test-template and make test-moto. The code of the functions, which
sam build would have put into a bucket, is said to be at s3://code/NAME.zip.
"""

import json
import os
import sys

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse


class NoManagedPolicies:
    """The template names no policy of AWS's, and SAM is to add none."""

    def load(self):
        return {}


os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
with open(sys.argv[1]) as f:
    template = yaml_parse(f.read())
for name, resource in template["Resources"].items():
    if resource["Type"] == "AWS::Serverless::Function":
        resource["Properties"]["CodeUri"] = f"s3://code/{name}.zip"
expanded = transform(template, {}, NoManagedPolicies())
with open(sys.argv[2], "w") as f:
    json.dump(expanded, f, indent=1)
