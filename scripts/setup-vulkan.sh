#!/usr/bin/env bash
# Prepares a software Vulkan driver (Mesa's llvmpipe) for the `wgpu` feature on machines without
# a GPU. Debian and its derivatives; elsewhere install Mesa's Vulkan drivers by the system's means.
set -euo pipefail

if ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1; then
    echo "setup-vulkan: a Vulkan driver is installed" >&2
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "setup-vulkan: no Vulkan driver and no apt-get; install Mesa's Vulkan drivers (lavapipe)" >&2
    exit 1
fi
run=()
[ "$(id -u)" = 0 ] || run=(sudo)
echo "setup-vulkan: installing mesa-vulkan-drivers" >&2
"${run[@]}" apt-get update -qq >&2
"${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mesa-vulkan-drivers libvulkan1 >&2
