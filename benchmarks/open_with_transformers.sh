#!/usr/bin/env bash
# Opens an exported folder where nothing but torch and transformers is installed, and asks it two questions.
#
#     parakeet export demo demo-hf --format hf
#     bash benchmarks/open_with_transformers.sh demo-hf [ENVIRONMENT]
#
# ENVIRONMENT is made by pip if it does not exist (minutes). TORCH names the release of torch to install.
set -euo pipefail
folder=$(realpath "${1:?Give the exported folder.}")
environment=${2:-$(mktemp -d)/environment}
if [ ! -x "$environment/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
    "$environment/bin/pip" install --quiet "${TORCH:-torch==2.13.0}" transformers
fi
# -I: not this checkout either. With trust, because for some head counts the class comes with the folder.
HF_HUB_OFFLINE=1 "$environment/bin/python" -I - "$folder" <<'PYTHON'
import importlib.util
import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

assert importlib.util.find_spec("parakeet") is None
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
print(type(model).__name__, model.dtype)
for question in ("Hello!", "What is 3 plus 4?"):
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    reply = model.generate(**prompt, do_sample=False, max_new_tokens=40)[0, prompt["input_ids"].shape[1] :]
    print(f"{question} -> {tokenizer.decode(reply, skip_special_tokens=True)!r}")
PYTHON
