//! Generates the messages of `proto/` with protox, which is a compiler written in Rust: no
//! `protoc` is needed for them. (The build of etcd-client needs one: see scripts/protoc.)

type Fallible = Result<(), Box<dyn std::error::Error>>;

fn main() -> Fallible {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["message.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    grpc()
}

/// The gRPC service, and its description for reflection.
#[cfg(feature = "cluster")]
fn grpc() -> Fallible {
    let descriptors = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .open_file("rooms.proto")?
        .encode_file_descriptor_set();
    let out_dir = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(
        std::path::Path::new(&out_dir).join("rooms.bin"),
        &descriptors,
    )?;
    let descriptors = protox::compile(["rooms.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "cluster"))]
fn grpc() -> Fallible {
    Ok(())
}
