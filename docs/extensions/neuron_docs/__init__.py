"""Extensions of Sphinx for this documentation: pages that are made from the code when the documentation is built."""
