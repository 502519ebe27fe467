# image.sh: the OCI image format by hand. Sourced; wants $work, a scratch directory.
#
#     NAME/oci-layout               which version of this directory layout it is
#     NAME/index.json               where to start: the descriptors of the images in here
#     NAME/blobs/sha256/HEX         everything else, each file named by its own sha256
#
# A *descriptor* is {mediaType, digest, size} and is the only kind of pointer there is:
#
#     index.json -> manifest -> config (what to run, and the diff_ids)
#                            -> layer, layer, ... (compressed tar files, lowest first)
#
# A layer has two hashes. Its *digest* names the compressed blob: what is fetched and
# checked. Its *diff_id* is that of the tar within: what the config vouches for, so that a
# layer may be compressed anew without becoming another. Source: OCI image-spec.

# Every time stamp in an image, so that the same content always has the same digest.
epoch=${SOURCE_DATE_EPOCH:-1735689600}

# What the images are for, in the words of Go and not of Debian.
case $(dpkg --print-architecture) in
armhf) platform='{"architecture":"arm","os":"linux","variant":"v7"}' ;;
arm64) platform='{"architecture":"arm64","os":"linux","variant":"v8"}' ;;
i386)  platform='{"architecture":"386","os":"linux"}' ;;
*)     platform="{\"architecture\":\"$(dpkg --print-architecture)\",\"os\":\"linux\"}" ;;
esac

# The media types of OCI. Docker's own, older ones stand in images/docker2.sh.
manifest_type=application/vnd.oci.image.manifest.v1+json
index_type=application/vnd.oci.image.index.v1+json
config_type=application/vnd.oci.image.config.v1+json
layer_type=application/vnd.oci.image.layer.v1.tar+      # + gzip, or + zstd

# hex FILE: its sha256.
hex() ( sum=$(sha256sum <"$1") && echo "${sum%% *}" )

# new_tree: an empty directory to lay files out in.
new_tree() ( tree=$(mktemp -d "$work/tree.XXXXXX") && chmod 755 "$tree" && echo "$tree" )

# names TREE [FIND-TEST...]: what is in it, each name ended by a zero byte, as one may hold a newline.
names() ( tree=$1; shift; find "$tree" -mindepth 1 "$@" -printf '%P\0' )

# tar_names TREE TAR [TAR-OPTION...] <NAMES: packs just those names, in the order of their
# bytes, with one time and numeric owners: nothing of this machine or moment gets in.
tar_names() (
    tree=$1 tar=$2; shift 2
    sort -z >"$tar.names"
    tar --create --file="$tar" --directory="$tree" --format=posix --numeric-owner --mtime="@$epoch" \
        --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
        --no-recursion --null --files-from="$tar.names" "$@"
)

# layer TAR [gzip|zstd]: makes a layer of a tar file. Prints the handle that `image` takes: a
# directory with the blob, how it is compressed, and its diff_id.
layer() (
    layer=$(mktemp -d "$work/layer.XXXXXX") compression=${2:-gzip}
    case $compression in
    gzip) gzip -n <"$1" ;;                               # -n: no time, no name
    zstd) zstd -q -c <"$1" ;;
    esac >"$layer/blob"
    echo "$compression" >"$layer/compression"
    hex "$1" >"$layer/diff_id"
    echo "$layer"
)

# layer_from_tree TREE: all that is in it, as a layer.
layer_from_tree() (
    tar=$(mktemp "$work/tar.XXXXXX")
    names "$1" | tar_names "$1" "$tar"
    layer "$tar"
    rm "$tar" "$tar.names"
)

# layers_of LAYOUT: the handles of the layers of an image made here.
layers_of() (
    manifest=$(jq -r '.manifests[0].digest | "blobs/" + sub(":"; "/")' "$1/index.json")
    config=$(jq -r '.config.digest | "blobs/" + sub(":"; "/")' "$1/$manifest")
    jq -r '.layers[] | .digest, .mediaType' "$1/$manifest" >"$work/layers"
    jq -r '.rootfs.diff_ids[]' "$1/$config" >"$work/diff_ids"
    paste - - "$work/diff_ids" <"$work/layers" |
        while read -r digest type diff_id; do
            layer=$(mktemp -d "$work/layer.XXXXXX")
            ln "$1/blobs/sha256/${digest#*:}" "$layer/blob"
            echo "${type##*[+.]}" >"$layer/compression"
            echo "${diff_id#*:}" >"$layer/diff_id"
            echo "$layer"
        done
)

# new_layout: an image layout with nothing in it yet.
new_layout() (
    layout=$(new_tree)
    mkdir -p "$layout/blobs/sha256"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    echo "$layout"
)

# put LAYOUT TYPE FILE: keeps a file as a blob, prints its descriptor.
put() (
    hex=$(hex "$3")
    ln -f "$3" "$1/blobs/sha256/$hex"                    # a link: images that share a layer share its bytes
    jq -nc --arg type "$2" --arg digest "sha256:$hex" --argjson size "$(stat -c %s "$3")" \
        '{mediaType: $type, digest: $digest, size: $size}'
)

# manifest LAYOUT CONFIG LAYER...: keeps layers, config and manifest, prints the manifest's descriptor.
manifest() (
    layout=$1 config=$2; shift 2
    new=$(mktemp -d "$work/json.XXXXXX")

    for layer; do
        type=$layer_type$(cat "$layer/compression")
        put "$layout" "${type%+}" "$layer/blob" >>"$new/layers"
        cat "$layer/diff_id" >>"$new/diff_ids"
    done
    jq -nc --argjson platform "$platform" --argjson config "$config" --rawfile diff_ids "$new/diff_ids" \
        --argjson epoch "$epoch" '($diff_ids | split("\n")[:-1]) as $ids | ($epoch | todate) as $created |
        $platform + {created: $created, config: $config,
            rootfs: {type: "layers", diff_ids: [$ids[] | "sha256:" + .]},
            history: [$ids[] | {created: $created, created_by: "demo-images"}]}' >"$new/config"
    put "$layout" "$config_type" "$new/config" >"$new/config.descriptor"
    jq -nc --arg type "$manifest_type" --slurpfile config "$new/config.descriptor" --slurpfile layers "$new/layers" \
        '{schemaVersion: 2, mediaType: $type, config: $config[0], layers: $layers}' >"$new/manifest"
    put "$layout" "$manifest_type" "$new/manifest"
)

# publish LAYOUT NAME DESCRIPTOR: writes the index, and the image is there: by a rename, whole or not at all.
publish() (
    echo "$3" | jq '{schemaVersion: 2, mediaType: $type, manifests:
        [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' --arg type "$index_type" >"$1/index.json"
    [ ! -e "$2" ] || mv "$2" "$(mktemp -d "$work/old.XXXXXX")"
    mv "$1" "$2"
)

# image NAME CONFIG LAYER...: the three together, for an image of one platform.
image() (
    layout=$(new_layout) name=$1; shift
    descriptor=$(manifest "$layout" "$@")
    publish "$layout" "$name" "$descriptor"
)

# whole LAYOUT: true if each blob that is pointed to is there and each one there is what its name says.
whole() (
    cd "$1" 2>/dev/null && [ -s index.json ] && cd blobs/sha256 || exit 1
    sha256sum -- * | awk '$1 != $2 { exit 1 }' || exit 1
    set -- ../../index.json
    while [ $# -gt 0 ]; do                               # descriptors lead on only from what is JSON itself
        [ -f "$1" ] || exit 1
        more=$(jq -r '.config, .layers[]?, .manifests[]? | .digest // empty | sub(".*:"; "")' "$1" 2>/dev/null) || more=
        shift
        set -- "$@" $more
    done
)
