#!/bin/sh
# Runs the steps of the Dockerfile where Docker is missing: a copy of the commit, its installation, then the container's
# own command as first process of a namespace (needs root, unshare and git). It starts a training, stops the container,
# and starts it again.
#
#   sh docs/deployment/check.sh            installs everything from the registry into a new environment
#   sh docs/deployment/check.sh .venv      uses the packages of this environment
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
port=${PORT:-3999}
first=
trap '[ -z "$first" ] || kill -INT "$first" 2> /dev/null || true' EXIT

echo "== COPY, pip install"
git -C "$here" archive --prefix=parakeet/ HEAD | tar -x -C "$work"
# A folder of its own as a checkout has it: run.json records a commit.
cd "$work/parakeet" && git init -q && git add -A && git -c user.name=check -c user.email=check@localhost commit -qm check
python3.11 -m venv .venv
if [ -n "${1:-}" ]; then
    "$(cd "$here" && cd "$(dirname "$1")" && pwd)/$(basename "$1")/bin/python" -c \
        'import site, sys; print("\n".join(p for p in sys.path if "packages" in p))' > "$(echo .venv/lib/python3*/site-packages)/base.pth"
    echo "$work/parakeet" >> "$(echo .venv/lib/python3*/site-packages)/base.pth"
    for tool in dagster dagster-daemon dagster-webserver; do
        module=$(echo $tool | tr - _)
        printf '#!%s\nimport sys\nfrom importlib.metadata import entry_points\n(tool,) = entry_points(group="console_scripts", name="%s")\nsys.exit(tool.load()())\n' \
            "$work/parakeet/.venv/bin/python" "$tool" > .venv/bin/$tool
        chmod +x .venv/bin/$tool
    done
else
    .venv/bin/pip install --no-cache-dir -e '.[postgres]'
fi

export PATH="$work/parakeet/.venv/bin:$PATH" PARAKEET_HOME="$work/data" DAGSTER_HOME="$work/data/.dagster"
mkdir "$work/data"
cat > "$work/check.yaml" <<'RECIPE'
extends: own-text
name: check
executor: {workers: 1}
sources: [{name: synthetic, kind: synthetic, documents: 1000, near_duplicates: false}]
deduplication: {held_out_fraction: 0.2}
model: {layers: 2, heads: 2, width: 64, context: 256}
training: {tokens: 50_000_000, batch_tokens: 512, micro_batch_tokens: 512, checkpoint_steps: 100, precision: fp32}
RECIPE
python -m parakeet.cli use "$work/check.yaml"
# Ctrl-C and `docker stop` are what is tried: both must reach the container.
start() {
    python -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])' \
        unshare --pid --fork --mount-proc python docs/deployment/container.py dagster dev -p "$port" >> "$work/log" 2>&1 &
    until curl -sf "http://127.0.0.1:$port/server_info" > /dev/null; do sleep 1; done
    first=$(pgrep -f "docs/deployment/container.py dagster dev -p $port" | tail -1)
}
stop() {
    kill -INT "$first"
    wait
    first=
}

echo "== ENTRYPOINT, CMD"
start
echo "the pages answer: $(curl -s "http://127.0.0.1:$port/server_info")"
ask() { curl -s -H 'Content-Type: application/json' -d "$1" "http://127.0.0.1:$port/graphql"; }
selector='{repositoryLocationName: \"parakeet\", repositoryName: \"__repository__\", jobName: \"full_build\"}'
ask '{"query": "mutation { launchPipelineExecution(executionParams: {selector: '"$selector"', runConfigData: {}, mode: \"default\"}) { __typename ... on PythonError { message } } }"}'
echo
until grep -qs . "$work"/data/training_runs/*/metrics.jsonl; do sleep 1; done
echo "== docker stop"
stop
grep -h '"kind": "stopped"' "$work"/data/training_runs/*/events.jsonl
echo "== docker start"
start
until grep -qs '"kind": "resumed"' "$work"/data/training_runs/*/events.jsonl; do sleep 1; done
grep -h '"kind": "resumed"' "$work"/data/training_runs/*/events.jsonl
stop
rm -r "$work"
echo "All steps of the Dockerfile work."
