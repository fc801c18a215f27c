# syntax=docker/dockerfile:1
# The worker's image: the release build of the program on distroless, which has the C library, certificates and a user
# without rights, and neither a shell nor a package manager.
#
#   docker build --tag shardkeeper:local .                                  # for this machine
#   docker build --tag shardkeeper-local:local --target shardkeeper-local . # with `shardkeeper local` and the demo
#   docker buildx build --platform linux/amd64,linux/arm64 --tag …/shardkeeper:0.1.0 --push .
#
# Compiling is done by docker/build, for the platform that is wanted, on the one that builds: nothing is emulated.
# .ci/image carries out the same steps without an engine.
ARG RUST_VERSION=1.95
ARG DEBIAN=bookworm

FROM --platform=$BUILDPLATFORM rust:${RUST_VERSION}-${DEBIAN} AS toolchain
ARG TARGETARCH
WORKDIR /src
COPY docker/build docker/build
RUN docker/build setup "$TARGETARCH"

# The dependencies, which change seldom: this layer is made anew only when a manifest or Cargo.lock has changed.
FROM toolchain AS dependencies
COPY Cargo.toml Cargo.lock ./
COPY local/Cargo.toml local/
COPY program/Cargo.toml program/
RUN docker/build dependencies "$TARGETARCH" cli,otlp

FROM dependencies AS build
COPY README.md ./
COPY local/src local/src
COPY src src
COPY local local
RUN docker/build program "$TARGETARCH" cli,otlp /out/shardkeeper

FROM build AS build-local
RUN docker/build program "$TARGETARCH" cli,local,otlp /out/shardkeeper

FROM gcr.io/distroless/cc-debian12:nonroot AS runtime
# 65532 is distroless' nonroot; as a number, so that Kubernetes can tell that it isn't root.
USER 65532:65532
EXPOSE 9464
ENTRYPOINT ["/usr/local/bin/shardkeeper"]
CMD ["run"]

FROM runtime AS shardkeeper-local
COPY --from=build-local /out/shardkeeper /usr/local/bin/shardkeeper

# Last, so that it is what a build without --target makes.
FROM runtime AS shardkeeper
COPY --from=build /out/shardkeeper /usr/local/bin/shardkeeper
