"""The questions of two published checklists, and the subjects of a record that answer them.

NeurIPS Paper Checklist, as the conference's LaTeX style of 2025 prints it (`checklist.tex`; guidelines at
https://neurips.cc/public/guides/PaperChecklist): titles and questions of its 16 items.

REFORMS: S. Kapoor et al., "REFORMS: Consensus-based recommendations for machine-learning-based science", Science
Advances 10 (18), eadk3452 (2024), https://doi.org/10.1126/sciadv.adk3452: its 32 items in 8 modules, by their titles in
the guidelines that belong to the checklist (https://reforms.cs.princeton.edu).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChecklistQuestion:
    """An item of a checklist.

    Attributes:
        number, title: as published.
        topics: names of the subjects that answer it; empty: no record can answer it.
        left: what the authors have to add, or why no record can answer it.
        text: the published question, unless the title is the question.
    """

    number: str
    title: str
    topics: tuple[str, ...] = ()
    left: str = ""
    text: str = ""


@dataclass(frozen=True)
class Checklist:
    """A published checklist: its name with the year, its source and its questions."""

    name: str
    source: str
    questions: tuple[ChecklistQuestion, ...]


# Why no record can answer a question.
_PAPER = "Concerns the text of the paper."
_AIM = "Concerns the aim of the study."
_ARGUMENT = "Requires an argument."
_ORIGIN = "How rows were collected is not in a record."

NEURIPS = Checklist(
    "NeurIPS Paper Checklist (2025)",
    "NeurIPS 2025 LaTeX style, checklist.tex; https://neurips.cc/public/guides/PaperChecklist",
    (
        ChecklistQuestion(
            "1",
            "Claims",
            left=_PAPER,
            text="Do the main claims made in the abstract and introduction accurately reflect the paper's "
            "contributions and scope?",
        ),
        ChecklistQuestion(
            "2",
            "Limitations",
            ("limits",),
            "Limitations of the task, the data and the method.",
            "Does the paper discuss the limitations of the work performed by the authors?",
        ),
        ChecklistQuestion(
            "3",
            "Theory assumptions and proofs",
            left=_PAPER,
            text="For each theoretical result, does the paper provide the full set of assumptions and a complete (and "
            "correct) proof?",
        ),
        ChecklistQuestion(
            "4",
            "Experimental result reproducibility",
            ("rerun", "data", "base_model", "code", "environment"),
            text="Does the paper fully disclose all the information needed to reproduce the main experimental results "
            "of the paper to the extent that it affects the main claims and/or conclusions of the paper (regardless of "
            "whether the code and data are provided or not)?",
        ),
        ChecklistQuestion(
            "5",
            "Open access to data and code",
            ("data", "code", "rerun"),
            "Where data and code can be obtained.",
            "Does the paper provide open access to the data and code, with sufficient instructions to faithfully "
            "reproduce the main experimental results, as described in supplemental material?",
        ),
        ChecklistQuestion(
            "6",
            "Experimental setting/details",
            ("splits", "base_model", "hyperparameters", "selection", "test_set"),
            text="Does the paper specify all the training and test details (e.g., data splits, hyperparameters, how "
            "they were chosen, type of optimizer, etc.) necessary to understand the results?",
        ),
        ChecklistQuestion(
            "7",
            "Experiment statistical significance",
            ("uncertainty",),
            text="Does the paper report error bars suitably and correctly defined or other appropriate information "
            "about the statistical significance of the experiments?",
        ),
        ChecklistQuestion(
            "8",
            "Experiments compute resources",
            ("compute", "environment"),
            "Compute of the project outside of this sweep.",
            "For each experiment, does the paper provide sufficient information on the computer resources (type of "
            "compute workers, memory, time of execution) needed to reproduce the experiments?",
        ),
        ChecklistQuestion(
            "9",
            "Code of ethics",
            left="It is for the authors to confirm.",
            text="Does the research conducted in the paper conform, in every respect, with the NeurIPS Code of Ethics "
            "https://neurips.cc/public/EthicsGuidelines?",
        ),
        ChecklistQuestion(
            "10",
            "Broader impacts",
            left=_PAPER,
            text="Does the paper discuss both potential positive societal impacts and negative societal impacts of the "
            "work performed?",
        ),
        ChecklistQuestion(
            "11",
            "Safeguards",
            left="Concerns the release of data and models.",
            text="Does the paper describe safeguards that have been put in place for responsible release of data or "
            "models that have a high risk for misuse (e.g., pretrained language models, image generators, or scraped "
            "datasets)?",
        ),
        ChecklistQuestion(
            "12",
            "Licenses for existing assets",
            ("licenses",),
            "Citations of the owners, and whether the terms are respected.",
            "Are the creators or original owners of assets (e.g., code, data, models), used in the paper, properly "
            "credited and are the license and terms of use explicitly mentioned and properly respected?",
        ),
        ChecklistQuestion(
            "13",
            "New assets",
            ("rerun",),
            "Documentation of what is released.",
            "Are new assets introduced in the paper well documented and is the documentation provided alongside the "
            "assets?",
        ),
        ChecklistQuestion(
            "14",
            "Crowdsourcing and research with human subjects",
            left=_ORIGIN,
            text="For crowdsourcing experiments and research with human subjects, does the paper include the full text "
            "of instructions given to participants and screenshots, if applicable, as well as details about "
            "compensation (if any)?",
        ),
        ChecklistQuestion(
            "15",
            "Institutional review board (IRB) approvals or equivalent for research with human subjects",
            left=_ORIGIN,
            text="Does the paper describe potential risks incurred by study participants, whether such risks were "
            "disclosed to the subjects, and whether Institutional Review Board (IRB) approvals (or an equivalent "
            "approval/review based on the requirements of your country or institution) were obtained?",
        ),
        ChecklistQuestion(
            "16",
            "Declaration of LLM usage",
            ("base_model",),
            "Any use of language models outside of this sweep.",
            "Does the paper describe the usage of LLMs if it is an important, original, or non-standard component of "
            "the core methods in this research? Note that if the LLM is used only for writing, editing, or formatting "
            "purposes and does not impact the core methodology, scientific rigorousness, or originality of the "
            "research, declaration is not required.",
        ),
    ),
)

REFORMS = Checklist(
    "REFORMS (2024)",
    "Kapoor et al., Science Advances 10 (18), eadk3452 (2024), https://doi.org/10.1126/sciadv.adk3452; item titles of "
    "its guidelines, https://reforms.cs.princeton.edu",
    (
        ChecklistQuestion("1a", "Population or distribution about which the scientific claim is made", left=_AIM),
        ChecklistQuestion("1b", "Motivation for choosing this population or distribution (1a.)", left=_AIM),
        ChecklistQuestion("1c", "Motivation for the use of ML methods in the study", left=_AIM),
        ChecklistQuestion(
            "2a",
            "Dataset used for training and evaluating the model along with link or DOI to uniquely identify the "
            "dataset",
            ("data",),
            "A link or DOI.",
        ),
        ChecklistQuestion(
            "2b",
            "Code used to train and evaluate the model and produce the results reported in the paper along with link "
            "or DOI to uniquely identify the version of the code used",
            ("code",),
            "A link or DOI.",
        ),
        ChecklistQuestion("2c", "Description of the computing infrastructure used", ("environment", "compute")),
        ChecklistQuestion(
            "2d",
            "README file which contains instructions for generating the results using the provided dataset and code",
            ("rerun",),
            "The README itself; the command is in the record.",
        ),
        ChecklistQuestion("2e", "Reproduction script to produce all results reported in the paper", ("rerun",)),
        ChecklistQuestion(
            "3a",
            "Source(s) of data, separately for the training and evaluation datasets (if applicable), along with the "
            "time when the dataset(s) are collected, the source and process of ground-truth annotations, and other "
            "data documentation",
            ("data",),
            "Origin, time of collection and annotation of the rows.",
        ),
        ChecklistQuestion(
            "3b",
            "Distribution or set from which the dataset is sampled (i.e., the sampling frame)",
            left=_ORIGIN,
        ),
        ChecklistQuestion(
            "3c",
            "Justification for why the dataset is useful for the modeling task at hand",
            left=_ARGUMENT,
        ),
        ChecklistQuestion(
            "3d",
            "The definition of the outcome variable of the model along with descriptive statistics, if applicable",
            ("outcome",),
            "What an output means.",
        ),
        ChecklistQuestion("3e", "Number of samples in the dataset", ("data", "outcome")),
        ChecklistQuestion(
            "3f",
            "Percentage of missing data, split by class for a categorical outcome variable",
            ("exclusions",),
            "Missing cells of columns that the template does not use.",
        ),
        ChecklistQuestion(
            "3g",
            "Justification for why the distribution or set from which the dataset is drawn (3b.) is representative of "
            "the one about which the scientific claim is being made (1a.)",
            left=_ARGUMENT,
        ),
        ChecklistQuestion(
            "4a",
            "Identification of whether any samples are excluded with a rationale for why they are excluded",
            ("exclusions",),
            "What was excluded before the files were given, and why.",
        ),
        ChecklistQuestion("4b", "How impossible or corrupt samples are dealt with", ("exclusions",)),
        ChecklistQuestion(
            "4c",
            "All transformations of the dataset from its raw form (3a.) to the form used in the model, for instance, "
            "treatment of missing data and normalization",
            ("preprocessing",),
            "What was done before the files were given.",
        ),
        ChecklistQuestion(
            "5a",
            "Detailed descriptions of all models trained, including all features used, types of models implemented, "
            "and loss function used",
            ("base_model", "hyperparameters", "preprocessing"),
        ),
        ChecklistQuestion("5b", "Justification for the choice of model types implemented", left=_ARGUMENT),
        ChecklistQuestion(
            "5c",
            "Method for evaluating the model(s) reported in the paper, including details of train-test splits or "
            "cross-validation folds",
            ("splits", "metrics", "test_set"),
        ),
        ChecklistQuestion("5d", "Method for selecting the model(s) reported in the paper", ("selection",)),
        ChecklistQuestion(
            "5e",
            "For the model(s) reported in the paper, specify details about the hyperparameter tuning",
            ("hyperparameters", "selection"),
            "Why these values are reasonable.",
        ),
        ChecklistQuestion(
            "5f",
            "Justification that model comparisons are against appropriate baselines",
            ("baselines",),
            "Why these are appropriate.",
        ),
        ChecklistQuestion(
            "6a",
            "Justification that pre-processing (Section 4) and modeling (Section 5) steps only use information from "
            "the training dataset (and not the test dataset)",
            ("preprocessing", "test_set"),
        ),
        ChecklistQuestion(
            "6b",
            "Methods to address dependencies or duplicates between the training and test datasets (e.g. different "
            "samples from the same patients are kept in the same dataset partition)",
            ("leaks", "splits"),
            "Dependencies that no column shows.",
        ),
        ChecklistQuestion(
            "6c",
            "Justification that each feature or input used in the model is legitimate for the task at hand and does "
            "not lead to leakage",
            left="Requires an argument; the inputs are in the template.",
        ),
        ChecklistQuestion(
            "7a",
            "All metrics used to assess and compare model performance (e.g., accuracy, AUROC etc.). Justify that the "
            "metric used to select the final model is suitable for the task",
            ("metrics",),
            "Why the metric suits the task.",
        ),
        ChecklistQuestion(
            "7b",
            "Uncertainty estimates (e.g., confidence intervals, standard deviations), and details of how these are "
            "calculated",
            ("uncertainty",),
        ),
        ChecklistQuestion(
            "7c",
            "Justification for the choice of statistical tests (if used) and a check for the assumptions of the "
            "statistical test",
            ("uncertainty", "limits"),
        ),
        ChecklistQuestion(
            "8a", "Evidence of external validity", left="Every set of a record may come from one source."
        ),
        ChecklistQuestion(
            "8b",
            "Contexts in which the authors do not expect the study's findings to hold",
            left=_ARGUMENT,
        ),
    ),
)

CHECKLISTS = (NEURIPS, REFORMS)
