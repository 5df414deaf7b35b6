def render_markdown(f): return ""
