# multi: one name for several machines. It points to an index, a list of manifests, of which
# a puller takes the one for its own platform. Here all hold the same files, so only the
# config tells them apart; PLATFORM in the environment says which it was.

layers=$(base busybox)
layout=$(new_layout)
entries=$(mktemp "$work/entries.XXXXXX")

for platform in \
    '{"architecture":"amd64","os":"linux"}' \
    '{"architecture":"arm64","os":"linux","variant":"v8"}' \
    '{"architecture":"arm","os":"linux","variant":"v7"}'
do
    config=$(jq -nc --argjson p "$platform" '{Cmd: ["sh"], Env: ["PATH=/usr/bin:/bin",
        "PLATFORM=" + ([$p.os, $p.architecture, $p.variant // empty] | join("/"))]}')
    manifest "$layout" "$config" $layers | jq -c --argjson p "$platform" '. + {platform: $p}' >>"$entries"
done

# Build tools add such an entry to every image: a statement about it, in the shape of an image,
# for a platform that is none. Whoever takes "the first that is left" runs into it.
subject=$(sed -n '1s/.*"digest":"\([^"]*\)".*/\1/p' "$entries")
jq -nc --arg digest "${subject#*:}" '{"_type": "https://in-toto.io/Statement/v0.1",
    subject: [{name: "multi", digest: {sha256: $digest}}], predicateType: "https://slsa.dev/provenance/v0.2",
    predicate: {}}' >"$work/statement"
statement=$(put "$layout" application/vnd.in-toto+json "$work/statement")
jq -nc --arg id "sha256:$(hex "$work/statement")" '{architecture: "unknown", os: "unknown", config: {},
    rootfs: {type: "layers", diff_ids: [$id]}}' >"$work/config"
config=$(put "$layout" "$config_type" "$work/config")
jq -nc --arg type "$manifest_type" --argjson config "$config" --argjson statement "$statement" \
    '{schemaVersion: 2, mediaType: $type, config: $config, layers: [$statement]}' >"$work/manifest"
put "$layout" "$manifest_type" "$work/manifest" | jq -c --arg subject "$subject" '. + {
    platform: {architecture: "unknown", os: "unknown"},
    annotations: {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": $subject}}' >>"$entries"

jq -sc --arg type "$index_type" '{schemaVersion: 2, mediaType: $type, manifests: .}' "$entries" >"$work/index"
descriptor=$(put "$layout" "$index_type" "$work/index")
publish "$layout" multi "$descriptor"
