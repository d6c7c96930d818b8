"""A tuned model as an MLflow model that answers: how it is written, and what runs when it is loaded.

    MLmodel                      flavour `python_function`, signature, no path of the machine that wrote it
    wrapper.py                   the code that MLflow runs: it takes `answering.TunedText` of the installed tunerun
    artifacts/model.json         template and generation options (`record.PackagedModel`)
    artifacts/tuned_model/       the adapter in PEFT's format and `tunerun.json`, with the base model by reference
    artifacts/base_model/        a copy of the base model, only where that was asked for
    requirements.txt, ...        exact versions; no index, no URL
    input_example.json, ...      a held-out row

The same tuned model gives the same bytes, so its files are known by their digests before MLflow has them.
"""
