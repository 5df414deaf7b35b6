"""Studies: questions that are answered by training many small models. Each is one YAML file in this folder."""
