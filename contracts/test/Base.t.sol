// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {Escrow} from "../src/Escrow.sol";
import {IEscrowEvents} from "../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../src/IEscrowTypes.sol";
import {TestToken} from "../src/TestToken.sol";

/// @notice One requester, one provider, one agreement at a time; what every test starts from.
abstract contract Base is Test {
    uint96 internal constant DEPOSIT = 10e6;
    uint96 internal constant COLLATERAL = 20e6;
    uint96 internal constant PRICE = 3.6e6; // 1,000 base units per unit and second
    uint96 internal constant BOND = 1e6;
    uint32 internal constant DURATION = 5000;
    uint32 internal constant GRACE = 120;
    uint32 internal constant WINDOW = 300;
    uint32 internal constant CLAIM_WINDOW = 900;
    uint32 internal constant OFFLINE = 600;
    uint256 internal constant UNITS = 3; // two units: 2,000 base units per second
    uint256 internal constant PER_SECOND = 2000;
    uint256 internal constant START = 1_800_000_000;

    Escrow internal escrow;
    TestToken internal token;
    uint256 internal requesterKey = 0xA1;
    uint256 internal providerKey = 0xB1;
    uint256 internal requesterHotKey = 0xA2;
    uint256 internal providerHotKey = 0xB2;
    address internal requester = vm.addr(0xA1);
    address internal provider = vm.addr(0xB1);
    address internal requesterHot = vm.addr(0xA2);
    address internal providerHot = vm.addr(0xB2);
    address internal arbiter = address(0xA7B17E7);
    address internal anyone = address(0xA11CE);
    bytes internal constant NONE = "";

    function setUp() public virtual {
        vm.warp(START);
        token = new TestToken();
        escrow = new Escrow(limits());
        fund(requester, 100e6);
        fund(provider, 100e6);
        vm.prank(provider);
        escrow.stake(address(token), 60e6);
    }

    function limits() internal pure returns (IEscrowTypes.Limits memory) {
        return IEscrowTypes.Limits({
            minWindow: 60,
            maxWindow: 1 days,
            minClaimWindow: 600,
            maxClaimWindow: 30 days,
            maxDuration: 90 days,
            thawPeriod: 1 days
        });
    }

    function fund(address account, uint256 amount) internal {
        token.mint(account, amount);
        vm.startPrank(account);
        token.approve(address(escrow), amount);
        escrow.deposit(address(token), amount);
        vm.stopPrank();
    }

    function makeTerms() internal view returns (IEscrowTypes.Terms memory terms) {
        terms.parties = IEscrowTypes.Parties(
            requester, provider, requesterHot, providerHot, address(token), address(0)
        );
        terms.money = IEscrowTypes.Money(DEPOSIT, COLLATERAL, PRICE, BOND, 5000, 6000, 8000);
        terms.timing = IEscrowTypes.Timing(
            uint40(START + 1 days), DURATION, GRACE, WINDOW, CLAIM_WINDOW, OFFLINE, 1000
        );
        terms.units = UNITS;
        terms.job = keccak256("job");
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function open(IEscrowTypes.Terms memory terms) internal returns (bytes32 id) {
        id = escrow.agreementId(terms);
        bytes memory byRequester = sign(requesterKey, id);
        bytes memory byProvider = sign(providerKey, id);
        vm.prank(anyone);
        assertEq(escrow.open(terms, byRequester, byProvider), id);
    }

    function opened() internal returns (IEscrowTypes.Terms memory terms, bytes32 id) {
        terms = makeTerms();
        id = open(terms);
    }

    function voucherOf(bytes32 id, uint256 amount, bool last)
        internal
        view
        returns (IEscrowTypes.Voucher memory voucher, bytes memory signature)
    {
        voucher = IEscrowTypes.Voucher(id, uint96(amount), keccak256("ack"), last);
        signature = sign(requesterHotKey, escrow.voucherDigest(voucher));
    }

    function heartbeatOf(bytes32 id, uint64 sequence, uint256 metered, uint48 nonce)
        internal
        view
        returns (IEscrowTypes.Heartbeat memory heartbeat, bytes memory signature)
    {
        heartbeat = IEscrowTypes.Heartbeat(
            id, sequence, uint40(block.timestamp), uint32(metered), nonce, keccak256("state")
        );
        signature = sign(providerHotKey, escrow.heartbeatDigest(heartbeat));
    }

    function claim(IEscrowTypes.Terms memory terms, uint256 amount) internal {
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) =
            voucherOf(escrow.agreementId(terms), amount, false);
        escrow.claim(terms, voucher, signature);
    }

    function settle(IEscrowTypes.Terms memory terms, uint256 amount, bool last) internal {
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) =
            voucherOf(escrow.agreementId(terms), amount, last);
        vm.prank(providerHot);
        escrow.settle(terms, voucher, signature);
    }

    /// @dev Challenges with a voucher for all that has accrued.
    function challenge(IEscrowTypes.Terms memory terms, uint48 nonce) internal {
        bytes32 id = escrow.agreementId(terms);
        uint256 owed = escrow.accrued(terms, block.timestamp - escrow.agreement(id).openedAt);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, owed, false);
        vm.prank(requesterHot);
        escrow.challenge(terms, voucher, signature, nonce);
    }

    function answer(IEscrowTypes.Terms memory terms, uint64 sequence, uint48 nonce) internal {
        (IEscrowTypes.Heartbeat memory heartbeat, bytes memory signature) =
            heartbeatOf(escrow.agreementId(terms), sequence, 0, nonce);
        vm.prank(anyone);
        escrow.answer(terms, heartbeat, signature);
    }

    function free(address account) internal view returns (uint256 amount) {
        (amount,,,) = escrow.balance(address(token), account);
    }

    function staked(address account) internal view returns (uint256 amount) {
        (, amount,,) = escrow.balance(address(token), account);
    }

    function statusOf(bytes32 id) internal view returns (IEscrowTypes.Status) {
        return escrow.agreement(id).status;
    }

    function assertStatus(bytes32 id, IEscrowTypes.Status expected) internal view {
        assertEq(uint256(statusOf(id)), uint256(expected));
    }

    /// @dev The ledger after a close: what moved between the two, and what was burned.
    function assertMoved(uint256 paid, uint256 toVictim, uint256 burned, uint256 bondLost)
        internal
        view
    {
        assertEq(free(requester), 100e6 - paid + toVictim - bondLost, "requester free");
        assertEq(free(provider), 40e6 + paid + bondLost, "provider free");
        assertEq(staked(provider), 60e6 - toVictim - burned, "provider stake");
        assertEq(escrow.burned(address(token)), burned, "burned");
        assertEq(escrow.unitsTaken(provider), 0, "units");
        assertEq(token.balanceOf(address(escrow)), 200e6, "tokens");
    }

    function wrongStatus(bytes32 id, IEscrowTypes.Status status)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodeWithSelector(IEscrowEvents.Escrow_WrongStatus.selector, id, status);
    }

    function notParty(address sender) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IEscrowEvents.Escrow_NotParty.selector, sender);
    }

    function tooEarly(uint256 first) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IEscrowEvents.Escrow_TooEarly.selector, first);
    }

    function tooLate(uint256 last) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IEscrowEvents.Escrow_TooLate.selector, last);
    }
}
