"""The site of the documentation: ``docs/`` and pages that are generated from the code."""
