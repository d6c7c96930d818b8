"""A tuned model of tunerun. Loading it runs this file, which runs the `tunerun` that is installed here."""

from mlflow.models import set_model

from tunerun.tracking.packaged.answering import TunedText

set_model(TunedText())
