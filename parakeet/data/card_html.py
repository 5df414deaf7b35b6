def render_html(f): return ""
