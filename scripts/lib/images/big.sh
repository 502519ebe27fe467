# big: for measuring. Some 16,000 files, small ones and large ones, in six layers, about 280 MB.

for names in libboost1.74-dev openjdk-17-jre-headless golang-1.19-go libllvm14 \
    'python3-numpy python3-scipy' 'gcc-12 cpp-12'
do
    tree=$(new_tree)
    debs=$(packages_alone $names)
    unpack_debs "$debs" "$tree"
    layers="${layers:-} $(layer_from_tree "$tree")"
    rm -r "$debs" "$tree"
done
image big '{"Cmd":["true"]}' $layers
