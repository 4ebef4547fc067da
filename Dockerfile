# docker build --tag lockgate:0.1.0 .
#
# Needs BuildKit (or Podman) for the cache mounts.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# Dependencies and their objects stay in the caches between builds, which is why the binary has to be
# copied out in the same step.  Files from an archive may be older than what is cached; touching the
# crate's roots compiles what is here all the same.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    touch src/lib.rs src/main.rs && \
    cargo build --release --locked && \
    install -D --mode=755 target/release/lockgate /image/usr/bin/lockgate
# What an existing ingress-nginx Deployment and its kubectl plugin call, all of it the same program.
# The final image has no shell to make links with; copying the whole tree keeps them links.
RUN for name in dbg wait-shutdown nginx-ingress-controller; do \
        ln -s usr/bin/lockgate "/image/$name" || exit 1; \
    done

# Of the same Debian release as the build, so with the C library the binary was linked to; beside it
# only libgcc, time zones and the root certificates that the ACME directory is verified with.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="lockgate" \
      org.opencontainers.image.description="A Kubernetes ingress proxy that keeps its own certificates" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
# By number: Kubernetes cannot tell from a name that it is not root's.
USER 65532:65532
# The ports that deploy/ gives it; by itself it takes 80, 443 and 10254.  The binary has no file
# capability for those: with one it could not start at all where every capability is dropped.
EXPOSE 8080 8443 10254
ENTRYPOINT ["/usr/bin/lockgate"]
CMD ["serve"]
