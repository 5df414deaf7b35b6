"""Parakeet's chat template in Jinja, as transformers and others read it."""

import json

from parakeet.tokenizer import END_OF_PROMPT, ROLE_TOKENS, Tokenizer

ROLES = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""Roles as other programs name them, and ours."""


def chat_template(tokenizer: Tokenizer) -> str:
    """`chat_template.jinja`. Its text has the ids that `parakeet.template` gives, for any messages that it accepts.

    It refuses a role other than system, user and assistant, content that is not a text, and content that holds the
    text of a control token: readers would take that for the token itself.
    """
    openings = {theirs: ROLE_TOKENS[ours] for theirs, ours in ROLES.items()}
    # Jinja reads the same literals as JSON.
    return _TEMPLATE.format(
        openings=json.dumps(openings),
        controls=json.dumps(sorted(tokenizer.controls)),
        end=json.dumps(END_OF_PROMPT),
        roles=", ".join(ROLES),
    )


_TEMPLATE = """\
{{%- set openings = {openings} -%}}
{{%- set controls = {controls} -%}}
{{%- for message in messages -%}}
    {{%- if message['role'] not in openings -%}}
        {{{{- raise_exception("This model knows the roles {roles}, not " ~ message['role'] ~ ".") -}}}}
    {{%- endif -%}}
    {{%- if message['content'] is not string -%}}
        {{{{- raise_exception("The content of a message must be text: this model reads nothing else.") -}}}}
    {{%- endif -%}}
    {{%- set content = message['content'] | trim -%}}
    {{%- for control in controls -%}}
        {{%- if control in content -%}}
            {{{{- raise_exception("A message holds the text of the control token " ~ control ~ ": remove it.") -}}}}
        {{%- endif -%}}
    {{%- endfor -%}}
    {{{{- openings[message['role']] ~ content ~ {end} -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
    {{{{- openings['assistant'] -}}}}
{{%- endif -%}}
"""
