"""Sources of media: folders of files and TFDS datasets."""
