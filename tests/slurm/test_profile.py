"""The Slurm profile fits the workflow that it is for."""

import re
from pathlib import Path

import yaml

WORKFLOW = Path(__file__).parents[2] / "workflow"


def test_profile_names_the_rules_of_the_workflow():
    """Snakemake says nothing about limits for a rule that does not exist."""
    profile = yaml.safe_load((WORKFLOW / "profiles" / "slurm" / "config.yaml").read_text())
    texts = [path.read_text() for path in (WORKFLOW / "Snakefile", *WORKFLOW.rglob("*.smk"))]
    rules = {name for text in texts for name in re.findall(r"^rule (\w+):", text, re.MULTILINE)}
    named = {*profile["set-threads"], *profile["set-resources"]}
    assert named <= rules
