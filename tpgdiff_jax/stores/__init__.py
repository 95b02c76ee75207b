"""Object stores (s3://, gs://): read by copies of this machine, written object by object."""
