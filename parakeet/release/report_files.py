"""The report's stage, and its files: the release carries all but the picture."""

REPORT_STAGE = "report"
HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
RECORD_FILE = "report.json"
"""What was measured for the report alone: replies of earlier checkpoints, and the release that it compares with."""
PICTURE_FILE = "report.png"
