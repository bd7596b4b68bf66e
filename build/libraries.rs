//! NVIDIA's libraries, without which the program starts: it is linked with a jump for each of their functions, and
//! `src/cuda/libraries.rs` sets where the jumps go, if the libraries are there.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};
use std::{env, fs};

use object::elf::DT_SONAME;
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol, ReadCache, SymbolKind};

/// The libraries' names without `lib` and `.so`; whether they are loaded; what a jump answers that leads nowhere, an error
/// in the library's own numbers: not found, not supported, not initialised. The runtime is called by candle's kernels
/// for mixtures of experts only, the last two by nothing here.
const LIBRARIES: [(&str, bool, i32); 6] = [
    ("cuda", true, 500),
    ("cublas", true, 15),
    ("curand", true, 101),
    ("cudart", false, 3),
    ("cublasLt", false, 15),
    ("nvrtc", false, 11),
];

/// Writes the jumps, as an object of the library's, and a table of them in Rust: `libraries.rs`.
pub fn build(toolkit: &Path, out: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed=build/libraries.rs");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut names = Vec::new();
    let mut table = String::from(
        "/// NVIDIA's libraries: the file, and its functions in the order of their jumps.\n\
         const LIBRARIES: &[(&CStr, &[&CStr])] = &[\n",
    );
    for (name, loaded, _) in LIBRARIES {
        let (file, functions) = functions(&find(toolkit, &arch, name)?)?;
        if loaded {
            writeln!(table, "    (c{file:?}, &[").expect("a string");
            for function in &functions {
                writeln!(table, "        c{function:?},").expect("a string");
            }
            table += "    ]),\n";
        }
        names.extend(functions.into_iter().map(|function| (function, name)));
    }
    write!(
        table,
        "];\n\n/// How many jumps there are.\nconst JUMPS: usize = {};\n",
        names.len()
    )
    .expect("a string");
    save(&out.join("libraries.rs"), &table)?;

    let assembly = out.join("jumps.S");
    save(&assembly, &jumps(&names, &arch)?)?;
    cc::Build::new().file(assembly).compile("darkroom_jumps");
    Ok(())
}

/// Where a toolkit has a library for the linker: with the driver's, which may be a stub of it.
fn find(toolkit: &Path, arch: &str, name: &str) -> Result<PathBuf, String> {
    let file = format!("lib{name}.so");
    let folders = [
        "lib64".into(),
        "lib".into(),
        format!("targets/{arch}-linux/lib"),
        "targets/sbsa-linux/lib".into(),
        format!("lib/{arch}-linux-gnu"),
    ];
    [toolkit, Path::new("/usr/local/cuda"), Path::new("/usr")]
        .iter()
        .flat_map(|root| folders.iter().map(move |folder| root.join(folder)))
        .flat_map(|folder| [folder.join(&file), folder.join("stubs").join(&file)])
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!(
                "no {file} in {}: the `cuda` feature needs the whole of a CUDA toolkit",
                toolkit.display()
            )
        })
}

/// The name that a library is loaded by, and its functions' names, in order.
fn functions(path: &Path) -> Result<(String, Vec<String>), String> {
    let bad = |problem: &dyn Display| format!("{}: {problem}", path.display());
    let data = ReadCache::new(fs::File::open(path).map_err(|e| bad(&e))?);
    let file = ElfFile64::<Endianness, _>::parse(&data).map_err(|e| bad(&e))?;
    let mut names: Vec<String> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text)
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .filter(|name| {
            ["cu", "__cuda", "nvrtc"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .collect();
    names.sort();
    names.dedup();
    let table = file.elf_dynamic_table().map_err(|e| bad(&e))?;
    let name = table.iter().find(|entry| entry.tag == DT_SONAME);
    let name = name.ok_or_else(|| bad(&"it has no name to be loaded by"))?;
    let name = table.string(name).map_err(|e| bad(&e))?;
    match names.is_empty() {
        true => Err(bad(&"it has no functions")),
        false => Ok((String::from_utf8_lossy(name).into_owned(), names)),
    }
}

/// Assembly: the table `darkroom_jumps` of addresses, and a jump to each under a function's name, with what is answered
/// until the table says where it leads. The names are hidden: no library finds them in place of the functions.
fn jumps(functions: &[(String, &str)], arch: &str) -> Result<String, String> {
    let (jump, answer) = match arch {
        "x86_64" => ("jmp *darkroom_jumps+OFFSET(%rip)", "mov $ERROR, %eax\n ret"),
        "aarch64" => (
            "adrp x16, darkroom_jumps+OFFSET\n ldr x16, [x16, #:lo12:darkroom_jumps+OFFSET]\n br x16",
            "mov w0, #ERROR\n ret",
        ),
        _ => {
            return Err(format!(
                "the `cuda` feature is for x86_64 and aarch64, not {arch}"
            ));
        }
    };
    let mut text = ".section .note.GNU-stack,\"\",%progbits\n.text\n".to_owned();
    let mut table =
        ".data\n.p2align 3\n.globl darkroom_jumps\n.hidden darkroom_jumps\ndarkroom_jumps:\n"
            .to_owned();
    for (library, _, error) in LIBRARIES {
        let answer = answer.replace("ERROR", &error.to_string());
        write!(text, "no_{library}:\n {answer}\n").expect("a string");
    }
    for (i, (name, library)) in functions.iter().enumerate() {
        let jump = jump.replace("OFFSET", &(8 * i).to_string());
        write!(
            text,
            ".globl {name}\n.hidden {name}\n.type {name}, %function\n{name}:\n {jump}\n"
        )
        .expect("a string");
        writeln!(table, " .quad no_{library}").expect("a string");
    }
    Ok(text + &table)
}

fn save(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
