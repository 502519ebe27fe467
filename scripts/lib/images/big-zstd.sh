# big-zstd: for measuring. The files of big, its layers compressed with zstd.

need zstd=zstd

for lower in $(base big); do
    gzip -dc "$lower/blob" >"$work/big.tar"
    layers="${layers:-} $(layer "$work/big.tar" zstd)"
done
image big-zstd '{"Cmd":["true"]}' $layers
