# docker2: busybox as Docker itself pushed it before there was OCI: image manifest version 2,
# schema 2. Only the media types differ, and the manifest's digest with them.

manifest_type=application/vnd.docker.distribution.manifest.v2+json
config_type=application/vnd.docker.container.image.v1+json
layer_type=application/vnd.docker.image.rootfs.diff.tar.

layers=$(base busybox)
image docker2 '{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]}' $layers
