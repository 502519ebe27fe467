# zstd: busybox compressed otherwise. The digest of its layer is another, the diff_id the same.

need zstd=zstd

for lower in $(base busybox); do
    gzip -dc "$lower/blob" >"$work/zstd.tar"
    layers="${layers:-} $(layer "$work/zstd.tar" zstd)"
done
image zstd '{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]}' $layers
