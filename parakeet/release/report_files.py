"""Names of the report's files. The release carries all but the picture."""

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
RECORD_FILE = "report.json"
"""What was measured for the report alone: replies of earlier checkpoints, and the release that it compares with."""
PICTURE_FILE = "report.png"
