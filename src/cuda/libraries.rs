//! NVIDIA's libraries, loaded when a GPU is asked for: the program starts without them. It is linked with a jump for each
//! of their functions (build/libraries.rs), which leads nowhere until [`load`] has found the function.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

include!(concat!(env!("OUT_DIR"), "/libraries.rs"));

unsafe extern "C" {
    /// Where the jumps go: first those of [`LIBRARIES`].
    static darkroom_jumps: [AtomicPtr<c_void>; JUMPS];
}

/// Loads the libraries, once. What they lack of the functions that the program was linked with is answered with an error.
pub fn load() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(load_all).clone()
}

fn load_all() -> Result<(), String> {
    let mut jumps = 0..;
    for (file, functions) in LIBRARIES {
        // SAFETY: NVIDIA's libraries have no conditions for being loaded; they stay loaded.
        let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(missing(file));
        }
        for function in *functions {
            let jump = jumps.next().expect("without end");
            // SAFETY: a library that is loaded, and a name that ends with a zero.
            let found = unsafe { libc::dlsym(library, function.as_ptr()) };
            if !found.is_null() {
                at(jump).store(found, Ordering::Release);
            }
        }
    }
    Ok(())
}

fn at(jump: usize) -> &'static AtomicPtr<c_void> {
    // SAFETY: an array of words that only this module writes, each in one piece.
    unsafe { &darkroom_jumps[jump] }
}

/// Why a library was not loaded, in the loader's words, and what brings it.
fn missing(file: &CStr) -> String {
    // SAFETY: the last call of the loader failed; its text is copied at once.
    let told = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy();
    let driver = LIBRARIES[0].0;
    match file == driver {
        true => format!("no NVIDIA driver here ({told})"),
        false => format!(
            "{told}; it comes with CUDA {}, not with the driver: install that, or put its folder on LD_LIBRARY_PATH",
            super::kernels::TOOLKIT.0
        ),
    }
}
