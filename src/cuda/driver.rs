//! Functions of NVIDIA's libraries that lead here: tensors' memory comes from the workspace, and what would break or
//! outlive a captured graph is done otherwise.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUdeviceptr, CUresult, CUstream};

use super::libraries::Jump;
use super::workspace;

/// Each function: its name in the library, and its type, which is that of the one below.
macro_rules! led {
    ($($name:ident: $symbol:literal, fn($($kind:ty),*) -> $result:ty;)*) => {
        /// The libraries' own.
        struct Original {
            $($name: unsafe extern "C" fn($($kind),*) -> $result,)*
        }

        /// Leads them here, once.
        ///
        /// # Safety
        /// `jump` gives the jump of the function with that name.
        pub unsafe fn install(
            jump: impl Fn(&CStr) -> Result<Jump, String>,
        ) -> Result<(), String> {
            $(let $name = jump($symbol)?;)*
            // SAFETY: the types are those of the libraries' headers.
            let original = Original {
                $($name: unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($kind),*) -> $result>(
                        $name.leads(),
                    )
                },)*
            };
            if ORIGINAL.set(original).is_ok() {
                $($name.lead(self::$name as *mut c_void);)*
                workspace::tell_at_exit();
            }
            Ok(())
        }
    };
}

led! {
    alloc: c"cuMemAllocAsync", fn(*mut CUdeviceptr, usize, CUstream) -> CUresult;
    free: c"cuMemFreeAsync", fn(CUdeviceptr, CUstream) -> CUresult;
    upload: c"cuMemcpyHtoDAsync_v2", fn(CUdeviceptr, *const c_void, usize, CUstream) -> CUresult;
    download: c"cuMemcpyDtoHAsync_v2", fn(*mut c_void, CUdeviceptr, usize, CUstream) -> CUresult;
    destroy_stream: c"cuStreamDestroy_v2", fn(CUstream) -> CUresult;
    synchronise: c"cuCtxSynchronize", fn() -> CUresult;
    destroy_cublas: c"cublasDestroy_v2", fn(*mut c_void) -> c_int;
    destroy_curand: c"curandDestroyGenerator", fn(*mut c_void) -> c_int;
}

static ORIGINAL: OnceLock<Original> = OnceLock::new();

fn original() -> &'static Original {
    ORIGINAL.get().expect("set before the jumps led here")
}

unsafe extern "C" fn alloc(to: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    match workspace::take(stream, bytes) {
        Some(Ok(at)) => {
            // SAFETY: the caller's own word.
            unsafe { *to = at };
            CUresult::CUDA_SUCCESS
        }
        Some(Err(error)) => error,
        // SAFETY: the caller's own call.
        None => unsafe { (original().alloc)(to, bytes, stream) },
    }
}

unsafe extern "C" fn free(at: CUdeviceptr, stream: CUstream) -> CUresult {
    match workspace::give(stream, at) {
        Some(true) => CUresult::CUDA_SUCCESS,
        Some(false) => CUresult::CUDA_ERROR_INVALID_VALUE,
        // SAFETY: the caller's own call.
        None => unsafe { (original().free)(at, stream) },
    }
}

/// A graph would read the host's memory at each launch, which is somebody else's by then: it gets a copy from its own.
unsafe extern "C" fn upload(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    if bytes == 0 {
        return CUresult::CUDA_SUCCESS;
    }
    // SAFETY: what the caller has copied is there.
    let values = unsafe { std::slice::from_raw_parts(from.cast(), bytes) };
    match workspace::constant(stream, values) {
        // SAFETY: inside a block that the graph keeps.
        Some(Ok(from)) => unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream) },
        Some(Err(error)) => error,
        // SAFETY: the caller's own call.
        None => unsafe { (original().upload)(to, from, bytes, stream) },
    }
}

/// An upload that no capture changes.
///
/// # Safety
/// `to` has room; the bytes are there until the stream comes to it.
pub(super) unsafe fn upload_now(to: CUdeviceptr, bytes: &[u8], stream: CUstream) -> CUresult {
    if bytes.is_empty() {
        return CUresult::CUDA_SUCCESS;
    }
    // SAFETY: as the caller says.
    unsafe { (original().upload)(to, bytes.as_ptr().cast(), bytes.len(), stream) }
}

/// A graph would write the host's memory at each launch: refused. Else the values are there when this returns, which the
/// driver promises of some of the host's memory only.
unsafe extern "C" fn download(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    if workspace::is_captured(stream) {
        return CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    // SAFETY: the caller's own call, and its stream.
    unsafe {
        match (original().download)(to, from, bytes, stream) {
            CUresult::CUDA_SUCCESS => sys::cuStreamSynchronize(stream),
            error => error,
        }
    }
}

unsafe extern "C" fn destroy_stream(stream: CUstream) -> CUresult {
    workspace::end(stream);
    // SAFETY: the caller's own call.
    unsafe { (original().destroy_stream)(stream) }
}

/// Waiting for all of a GPU ends every capture on it, other threads' too; cudarc does it for each new stream.
unsafe extern "C" fn synchronise() -> CUresult {
    let _none = workspace::no_capture();
    // SAFETY: the caller's own call.
    unsafe { (original().synchronise)() }
}

/// The same, inside of cuBLAS. Of a GPU that is lost it may tell an error, on which cudarc panics; nobody could mend it.
unsafe extern "C" fn destroy_cublas(handle: *mut c_void) -> c_int {
    let _none = workspace::no_capture();
    // SAFETY: the caller's own call.
    unsafe { (original().destroy_cublas)(handle) };
    0
}

/// Likewise.
unsafe extern "C" fn destroy_curand(generator: *mut c_void) -> c_int {
    let _none = workspace::no_capture();
    // SAFETY: the caller's own call.
    unsafe { (original().destroy_curand)(generator) };
    0
}
