"""The documentation: built, its links and anchors followed, its commands and code run."""
