// Libraries that refuse everything. StarPU is linked to cuBLAS, cuSPARSE and cuSOLVER, whose real
// ones need private functions of the real cuBLASLt, and cuDNN's frontend to NVRTC; nothing here
// uses them.
extern "C" {

// CUBLAS_STATUS_NOT_INITIALIZED and its like are all 1; NVRTC's means that it has no memory.
#define REFUSE(function) \
  int function() { return 1; }

#if defined(STPT_EMULATE_CUBLAS)
REFUSE(cublasCreate_v2)
REFUSE(cublasDestroy_v2)
REFUSE(cublasInit)
REFUSE(cublasSetKernelStream)
REFUSE(cublasSetStream_v2)
REFUSE(cublasShutdown)
#elif defined(STPT_EMULATE_CUSPARSE)
REFUSE(cusparseCreate)
REFUSE(cusparseDestroy)
REFUSE(cusparseSetStream)
#elif defined(STPT_EMULATE_CUSOLVER)
REFUSE(cusolverDnCreate)
REFUSE(cusolverDnDestroy)
REFUSE(cusolverDnSetStream)
REFUSE(cusolverRfCreate)
REFUSE(cusolverRfDestroy)
REFUSE(cusolverSpCreate)
REFUSE(cusolverSpDestroy)
REFUSE(cusolverSpSetStream)
#elif defined(STPT_EMULATE_NVRTC)
REFUSE(nvrtcCompileProgram)
REFUSE(nvrtcCreateProgram)
REFUSE(nvrtcDestroyProgram)
REFUSE(nvrtcGetCUBIN)
REFUSE(nvrtcGetCUBINSize)
REFUSE(nvrtcGetProgramLog)
REFUSE(nvrtcGetProgramLogSize)
const char* nvrtcGetErrorString(int);
const char* nvrtcGetErrorString(int) { return "NVRTC is not emulated"; }
#endif

}  // extern "C"
