"""Files that have a vmstate stream inside another format: save images of libvirt, compressed data, qcow2."""
