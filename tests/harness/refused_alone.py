"""FineTuneJobs that are refused for what one field says, or does not say."""

from __future__ import annotations

from harness.documents import HUGE, LORA, Refused, job, named, with_null

ALONE: list[Refused] = [
    # the object
    Refused(
        "wrong apiVersion", job(apiVersion="phitune.dev/v1"), "apiVersion", "must be phitune.dev/v1alpha1"
    ),
    Refused("wrong kind", job(kind="FinetuneJob"), "kind", "must be FineTuneJob"),
    Refused("no spec", {k: v for k, v in job().items() if k != "spec"}, "spec", "required"),
    Refused("spec is text", job(spec="x"), "spec", "map of fields"),
    Refused("spec is empty", job(spec={}), "spec.task", "required"),
    Refused("unknown part", job(sepc={}), "sepc", "did you mean spec?"),
    # names
    Refused("name too long", named("a" * 41), "metadata.name", "at most 40"),
    Refused("name begins with a digit", named("1a"), "metadata.name", "first a letter"),
    Refused("name ends with a hyphen", named("a-"), "metadata.name", "last no hyphen"),
    Refused("name with a dot", named("a.b"), "metadata.name", "lower-case"),
    Refused("name in capitals", named("Digits"), "metadata.name", "lower-case"),
    Refused("no name", job(metadata={}), "metadata.name", "required"),
    Refused(
        "unknown metadata", job(metadata={"name": "a", "label": {}}), "metadata.label", "did you mean labels?"
    ),
    Refused(
        "malformed label", job(metadata={"name": "a", "labels": {"a": "b c"}}), "metadata.labels.a", "label"
    ),
    Refused(
        "malformed label key",
        job(metadata={"name": "a", "labels": {"a b": ""}}),
        "metadata.labels.a b",
        "key",
    ),
    Refused(
        "annotation is a number",
        job(metadata={"name": "a", "annotations": {"a": 1}}),
        "metadata.annotations.a",
        "string",
    ),
    # kinds of value
    Refused("unknown field", job({**LORA, "lora": {"rnak": 8}}), "spec.lora.rnak", "did you mean rank?"),
    Refused("unknown group", job({"trainig": {}}), "spec.trainig", "did you mean training?"),
    Refused(
        "known at another depth",
        job({"learningRate": 1e-4}),
        "spec.learningRate",
        "did you mean spec.training.learningRate?",
    ),
    Refused("unknown without a hint", job({"zzz": 1}), "spec.zzz", "unknown field"),
    Refused("wrong task", job({"task": "docqva"}), "spec.task", "docvqa, nlvr2, hatefulMemes, ucf101, jsonl"),
    Refused("wrong method", job({"method": "LoRA"}), "spec.method", "full, lora, qlora"),
    Refused("null where needed", with_null("spec", "task"), "spec.task", "required"),
    Refused(
        "text for a whole number", job({"resources": {"nodes": "2"}}), "spec.resources.nodes", "whole number"
    ),
    Refused(
        "fraction for a whole number",
        job({"resources": {"nodes": 1.5}}),
        "spec.resources.nodes",
        "whole number",
    ),
    Refused(
        "boolean for a whole number",
        job({"resources": {"nodes": True}}),
        "spec.resources.nodes",
        "whole number",
    ),
    Refused("text for a boolean", job({"freezeVision": "yes"}), "spec.freezeVision", "true or false"),
    Refused(
        "text for a number",
        job({"training": {"learningRate": "4e-5"}}),
        "spec.training.learningRate",
        "number",
    ),
    Refused("number for a text", job({"image": 5}), "spec.image", "string"),
    Refused("map for a list", job({"env": {"A": "b"}}), "spec.env", "list"),
    Refused("list for a map", job(spec={**job()["spec"], "training": []}), "spec.training", "map of fields"),
    Refused("null in a list", job({"env": [None]}), "spec.env[0]", "map of fields"),
    # bounds
    Refused("rank 0", job({**LORA, "lora": {"rank": 0}}), "spec.lora.rank", "at least 1, got 0"),
    Refused(
        "rank too large", job({**LORA, "lora": {"rank": 1025}}), "spec.lora.rank", "at most 1024, got 1025"
    ),
    Refused("dropout 1", job({**LORA, "lora": {"dropout": 1}}), "spec.lora.dropout", "less than 1"),
    Refused("alpha 0", job({**LORA, "lora": {"alpha": 0}}), "spec.lora.alpha", "more than 0"),
    Refused(
        "learning rate 0", job({"training": {"learningRate": 0}}), "spec.training.learningRate", "more than 0"
    ),
    Refused(
        "negative epochs",
        job({"training": {"epochs": -1, "maxSteps": None}}),
        "spec.training.epochs",
        "at least 1",
    ),
    Refused("17 crops", job({"training": {"numCrops": 17}}), "spec.training.numCrops", "at most 16"),
    Refused("huge seed", job({"training": {"seed": HUGE}}), "spec.training.seed", "at most 2147483647"),
    Refused("no nodes", job({"resources": {"nodes": 0}}), "spec.resources.nodes", "at least 1"),
    Refused("keep nothing", job({"checkpoint": {"keep": 0}}), "spec.checkpoint.keep", "at least 1"),
    Refused(
        "negative restarts",
        job({"runPolicy": {"restartLimit": -1}}),
        "spec.runPolicy.restartLimit",
        "at least 0",
    ),
    Refused(
        "long value", job({"env": [{"name": "A", "value": "x" * 8193}]}), "spec.env[0].value", "at most 8192"
    ),
    Refused(
        "no products", job({"resources": {"gpuProducts": []}}), "spec.resources.gpuProducts", "at least 1"
    ),
    Refused(
        "too many variables",
        job({"env": [{"name": f"A{i}"} for i in range(65)]}),
        "spec.env",
        "at most 64 entries allowed, got 65",
    ),
    # forms
    Refused("malformed cpu", job({"resources": {"cpu": "4 cores"}}), "spec.resources.cpu", "number of CPUs"),
    Refused("cpu 0", job({"resources": {"cpu": 0}}), "spec.resources.cpu", "positive"),
    Refused("cpu is a fraction", job({"resources": {"cpu": 0.5}}), "spec.resources.cpu", "string"),
    Refused(
        "malformed memory", job({"resources": {"memory": "16GB"}}), "spec.resources.memory", "number of bytes"
    ),
    Refused("negative memory", job({"resources": {"memory": "-1Gi"}}), "spec.resources.memory", "positive"),
    Refused(
        "memory in thousandths", job({"resources": {"memory": "512m"}}), "spec.resources.memory", "bytes"
    ),
    Refused(
        "memory without suffix",
        job({"resources": {"memory": 16}}),
        "spec.resources.memory",
        "suffix such as Gi",
    ),
    Refused("malformed size", job({"storage": {"size": "ten"}}), "spec.storage.size", "number of bytes"),
    Refused(
        "size without suffix", job({"storage": {"size": "200"}}), "spec.storage.size", "suffix such as Gi"
    ),
    Refused(
        "duration without unit",
        job({"runPolicy": {"activeDeadline": "30"}}),
        "spec.runPolicy.activeDeadline",
        "30m",
    ),
    Refused(
        "duration of nothing",
        job({"runPolicy": {"activeDeadline": "0s"}}),
        "spec.runPolicy.activeDeadline",
        "1s",
    ),
    Refused(
        "stall at once", job({"runPolicy": {"stallTimeout": "0.5s"}}), "spec.runPolicy.stallTimeout", "1s"
    ),
    Refused(
        "path out of the volume", job({"resumeFrom": "../other"}), "spec.resumeFrom", "inside its folder"
    ),
    Refused(
        "path deep out of it", job({"resumeFrom": "runs/../../x"}), "spec.resumeFrom", "inside its folder"
    ),
    Refused("absolute path", job({"resumeFrom": "/etc"}), "spec.resumeFrom", "inside its folder"),
    Refused("path of two lines", job({"resumeFrom": "a\nb"}), "spec.resumeFrom", "inside its folder"),
    Refused("empty path", job({"resumeFrom": ""}), "spec.resumeFrom", "inside its folder"),
    Refused(
        "claim in capitals",
        job({"storage": {"size": None, "claimName": "Data"}}),
        "spec.storage.claimName",
        "name",
    ),
    Refused("image with a space", job({"image": "a b"}), "spec.image", "reference of an image"),
    Refused("variable with a hyphen", job({"env": [{"name": "A-B"}]}), "spec.env[0].name", "underscores"),
    Refused(
        "selector key",
        job({"resources": {"nodeSelector": {"a b": "c"}}}),
        "spec.resources.nodeSelector.a b",
        "key",
    ),
    Refused(
        "selector value",
        job({"resources": {"nodeSelector": {"a": "b c"}}}),
        "spec.resources.nodeSelector.a",
        "label",
    ),
]
