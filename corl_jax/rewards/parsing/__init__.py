"""Parsers that rewards use: answers, numbers, boxes, object classes and formulas in texts."""
