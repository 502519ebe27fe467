# Sourced: builds the release binaries.
#
# They are static (musl): one file each, no shared library to load, a few times faster to start than with glibc. Where
# the target cannot be had the host's own is used; everything works, starting takes a little longer.

lib=${lib:-$here/scripts/lib}
. "$lib/install.sh"

# Installs what building needs: a Rust toolchain, the musl target and its C compiler (for ring and zstd).
need_build() {
    if ! command -v cargo >/dev/null; then
        need rustup=rustup
        rustup default stable
    fi
    need cc='gcc libc6-dev' musl-gcc=musl-tools
    target=$(uname -m)-unknown-linux-musl
    if [ ! -d "$(rustc --print target-libdir --target "$target")" ] && ! rustup target add "$target" 2>/dev/null; then
        echo "the musl target is not to be had: building for the host's C library instead" >&2
        target=$(rustc -vV | sed -n 's/^host: //p')
    fi
}

# Builds all tools; afterwards $release is the directory of the binaries.
build_release() {
    need_build
    (cd "$here" && cargo build --quiet --release --locked --target "$target" \
        -p mocker-pull -p mocker-images -p mocker-net -p mocker-cgroup -p mocker-exec)
    release=$here/target/$target/release
}
