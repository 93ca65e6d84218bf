"""Examples in the OpenAPI description."""

from typing import Any

JOB_REQUESTS: dict[str, Any] = {
    "describe": {
        "summary": "What layers a model has",
        "value": {"parameters": {"kind": "describe", "model": "/models/llama"}},
    },
    "measure": {
        "summary": "A model to a cost table",
        "value": {"parameters": {"kind": "measure", "model": "/models/llama", "sequences": 128}},
    },
    "allocate": {
        "summary": "A model and a budget to a plan",
        "value": {
            "parameters": {"kind": "allocate", "model": "/models/llama", "budget_gb": 4.5},
            "label": "llama for the 8 GB cards",
        },
    },
    "compress": {
        "summary": "The whole path, with limits",
        "value": {
            "parameters": {
                "kind": "compress",
                "model": "/models/llama",
                "budget_gb": 4.5,
                "constraints": {"pins": {"*.v_proj": "int8s"}},
                "tune_epochs": 1,
            },
            "priority": 2,
            "limits": {"time_s": 36000, "memory_gb": 64},
        },
    },
}

DIGEST = "0f343b0931126a20f133d67c2b018a3b1f7d2f3c4d5e6f708192a3b4c5d6e7f8"

SOLVE: dict[str, Any] = {
    "budget": {
        "summary": "A plan within 4.5 GB",
        "value": {"table": DIGEST, "budget_gb": 4.5},
    },
    "kept": {
        "summary": "With a pin, kept for an apply job",
        "value": {
            "table": DIGEST,
            "budget_gb": 4.5,
            "constraints": {"pins": {"*.v_proj": "int8s"}},
            "save": True,
        },
    },
}

FRONTIER: dict[str, Any] = {
    "curve": {"summary": "50 points", "value": {"table": DIGEST, "points": 50}},
}
