#!/usr/bin/env bash
# Builds seawall and mcp-bench and measures every peer in peers.toml; see run_peers.py --help.
set -eu
cd "$(dirname "$0")"
cargo build --release --quiet -p seawall -p seawall-bench
# Some peers cannot be told to listen on loopback only, so give them a network that has nothing else.
if unshare --net true 2>/dev/null; then
  exec unshare --net bash -c 'ip link set lo up && exec python3 run_peers.py "$@"' run-peers "$@"
fi
exec python3 run_peers.py "$@"
