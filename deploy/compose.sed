# The addresses of one machine without containers, as those of the network in compose.yaml.
s/127\.0\.0\.1:8080/172.31.83.11:8080/g
s/127\.0\.0\.1:8081/172.31.83.12:8081/g
s/127\.0\.0\.1:8090/172.31.83.21:8090/g
s/127\.0\.0\.1:8091/172.31.83.22:8091/g
s/127\.0\.0\.1:8085/172.31.83.31:8085/g
# nginx in its container has no files to keep logs in.
s|access_log nearcast-access\.log|access_log /dev/stdout|
s|error_log nearcast-error\.log|error_log /dev/stderr|
